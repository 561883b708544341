"""Shell: the control groups of this process, versions 1 and 2, and what processor time they allow."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """How many cores' time this control group and all above it may use; None without a limit. Knows v1 and v2."""
    groups = control_groups("cpu", root, membership)
    quotas = [_quota_v2(folder) if version == 2 else _quota_v1(folder) for version, folder in groups]
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[tuple[int, Path]]:
    """Those of this process that may limit what this controller is for, and all above them: version, 1 or 2, and folder."""
    groups = []
    for line in read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups += [(2, folder) for folder in _upwards(root, path)]
        elif controller in controllers.split(","):
            groups += [(1, folder) for base in (controller, controllers) for folder in _upwards(root / base, path)]
    return groups


def _upwards(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may not exist; the root is then its own."""
    folder = root / path.lstrip("/")
    return [folder, *[above for above in folder.parents if above == root or root in above.parents]]


def _quota_v2(folder: Path) -> float | None:
    words = read(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota) < 0:
        return None
    return int(quota) / int(period)


def read(path: Path) -> str:
    """Its text, empty where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
