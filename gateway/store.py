"""Shell: manifests of the versions that are stored. They never change, so each is read once."""

from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import Manifest, read_manifest, version_folder


class Store:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._manifests: dict[str, Manifest] = {}

    def manifest(self, digest: str) -> Manifest | None:
        """None when it is not stored here, or not any more in one piece."""
        if digest not in self._manifests:
            try:
                self._manifests[digest] = read_manifest(version_folder(self._home, digest))
            except BadVersion:
                return None
        return self._manifests[digest]

    def manifests(self, model: str) -> list[Manifest]:
        """Of all versions of a model, the oldest first."""
        try:
            digests = [folder.name for folder in self._home.versions.iterdir() if not folder.name.startswith(".")]
        except FileNotFoundError:
            return []
        found = [manifest for digest in digests if (manifest := self.manifest(digest)) is not None]
        return sorted((one for one in found if one.model == model), key=lambda one: (one.added_ts, one.name))
