"""The configuration file: what is taken, and that all that is wrong in it is told at once, with what is allowed."""

import tomllib
from pathlib import Path

import pytest
from msgspec import ValidationError, convert

from gateway.orders import NewName, Share
from hotpool.config import Config, load_config
from hotpool.errors import BadVersion, ConfigError
from hotpool.manifest import Preprocessing, read_preprocessing


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error, without the file's name, which begins each."""
    path = folder / "pool.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines), lines
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_what_is_not_written_has_its_default(tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text("[pool]\nworkers = 3\n[rollout]\nbake_s = 5\nmax_unavailable = '50%'\n")
    config = load_config(path)
    assert (config.pool.workers, config.pool.threads, config.rollout.max_unavailable) == (3, 1, "50%")
    assert (config.rollout.bake_s, type(config.rollout.bake_s)) == (5.0, float)
    assert config.gateway == Config().gateway == load_config(None).gateway


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("pool", "workers = 0", "a whole number from 1 up to 1,024, or 'auto'"),
        ("pool", "workers = 'many'", "a whole number from 1 up to 1,024, or 'auto'"),
        ("pool", "workers = true", "a whole number from 1 up to 1,024, or 'auto'"),
        ("pool", "threads = 1.5", "a whole number from 1 up to 256"),
        ("pool", "allow_oversubscription = 1", "true or false"),
        ("pool", "model = '-x'", "1 to 64 letters, digits, '.', '_' or '-', no sign first"),
        ("pool", 'model = "x\\n"', "1 to 64 letters, digits, '.', '_' or '-', no sign first"),
        ("dispatch", "lease_s = 0", "a number above 0 up to 86,400"),
        ("dispatch", "lease_s = nan", "a number above 0 up to 86,400"),
        ("dispatch", "lease_s = inf", "a number above 0 up to 86,400"),
        ("gates", "alpha = '1'", "a number"),
        ("rollout", "strategy = 'blue-green'", "'beside' or 'drain' or 'surge'"),
        ("rollout", "max_surge = 'half'", "a whole number from 1, or a percentage like '25%'"),
        ("rollout", 'max_unavailable = "50%\\n"', "a whole number from 1, or a percentage like '25%'"),
        ("gateway", "host = 8080", "text"),
        ("gateway", "model_folders = ['models']", "a list, each an absolute path"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(tmp_path, section, line, expected):
    key = line.partition(" = ")[0]
    shown = tomllib.loads(line)[key]
    assert problems(tmp_path, f"[{section}]\n{line}\n") == [f"{section}.{key} = {shown!r}: expected {expected}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pool]\nworkrs = 2", "unknown key 'pool.workrs'; did you mean 'pool.workers'?"),
        ("[pol]\nworkers = 2", "unknown key 'pol'; did you mean 'pool'?"),
        ("workers = 2", "unknown key 'workers'; known are pool, dispatch, pictures, rollout, gates, probe, gateway"),
        ("[probe]\nzzz = 2", "unknown key 'probe.zzz'; known are probe.interval_s"),
        ("pool = 2", "pool = 2: expected a table"),
    ],
)
def test_a_key_that_is_unknown_is_named_with_the_nearest_one(tmp_path, text, said):
    assert problems(tmp_path, text) == [said]


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    found = problems(
        tmp_path, "[pool]\nworkers = 0\nthreds = 1\nmax_batch = 0\n[dispatch]\nmax_attempts = 99\nlease_s = 5\n"
    )
    assert [line.partition(":")[0] for line in found] == [
        "pool.workers = 0",
        "unknown key 'pool.threds'; did you mean 'pool.threads'?",
        "pool.max_batch = 0",
        "dispatch.max_attempts = 99",
    ]


@pytest.mark.parametrize(("content", "said"), [(b"[pool", "not TOML"), (b"\xff", "can't be read")])
def test_a_file_that_is_none_is_refused(tmp_path, content, said):
    path = tmp_path / "pool.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml: can't be read"):
        load_config(tmp_path / "missing.toml")


@pytest.mark.parametrize("section", Config.__struct_fields__)
def test_of_every_field_it_can_be_said_what_is_allowed(tmp_path, section):
    for key in getattr(Config(), section).__struct_fields__:
        (said,) = problems(tmp_path, f"[{section}]\n{key} = 2026-01-01\n")
        assert said.startswith(f"{section}.{key} = datetime.date(2026, 1, 1): expected ")


def test_of_every_field_of_preprocessing_too():
    wrong = dict.fromkeys(Preprocessing.__struct_fields__, b"") | {"crops": 1}
    with pytest.raises(BadVersion) as caught:
        read_preprocessing(wrong)
    *said, unknown = str(caught.value).splitlines()
    assert [line.partition(" = ")[0] for line in said] == [
        f"preprocessing.{key}" for key in Preprocessing.__struct_fields__
    ]
    assert unknown == "unknown key 'preprocessing.crops'; did you mean 'preprocessing.crop'?"


@pytest.mark.parametrize(("kind", "name"), [(NewName, "v1"), (Share, "25%")])
def test_what_comes_by_http_ends_where_it_ends_too(kind, name):
    assert convert(name, kind) == name
    with pytest.raises(ValidationError):
        convert(f"{name}\n", kind)
