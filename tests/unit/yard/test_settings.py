"""Settings: what beats what, which values are refused, and that the page in docs is true."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.helpers import ROOT
from yard.errors import ConfigurationError
from yard.settings import Settings, table, variable


def test_without_anything_the_defaults_hold():
    settings = Settings.load({})
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 8000, None)
    assert settings == Settings()


def test_a_variable_beats_the_default_and_a_flag_beats_the_variable():
    environ = {"MODELYARD_PORT": "9000", "MODELYARD_STORE": "elsewhere"}
    assert Settings.load(environ).port == 9000
    assert Settings.load(environ, port=9001, store=None).port == 9001
    assert Settings.load(environ, port=9001, store=None).store == "elsewhere"


def test_an_empty_variable_is_as_good_as_none():
    assert Settings.load({"MODELYARD_REDIS_URL": "", "MODELYARD_PORT": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELYARD_PORT", "0"),
        ("MODELYARD_PORT", "70000"),
        ("MODELYARD_PORT", "http"),
        ("MODELYARD_LEASE_S", "0.1"),
        ("MODELYARD_LEASE_S", "nan"),
        ("MODELYARD_BATCH_JOBS", "-1"),
        ("MODELYARD_BODY_BYTES", "8MB"),
        ("MODELYARD_LOG_LEVEL", "loud"),
        ("MODELYARD_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_variable_and_the_value(name, value):
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({name: value})
    assert caught.value.message.startswith(f"{name}={value!r}: ")
    assert "\n" not in caught.value.message


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_a_child_gets_the_same_settings_through_its_environment():
    settings = Settings.load(
        {}, redis_url="unix:///tmp/r.sock", port=9000, lease_s=1.5, cache_bytes=2**30
    )
    assert Settings.load(settings.environ()) == settings
    assert Settings.load(Settings().environ()) == Settings()


def test_the_table_names_every_setting_with_its_default():
    lines = table().splitlines()
    assert len(lines) == len(Settings.model_fields) + 2
    assert any("`MODELYARD_PORT` | `8000`" in line for line in lines)
    assert any("`MODELYARD_REDIS_URL` | unset" in line for line in lines)
    assert all(line.count(" | ") == 2 for line in lines[2:])


def test_every_setting_says_what_it_is_for():
    for name, info in Settings.model_fields.items():
        assert info.description, variable(name)
        assert info.description.endswith("."), variable(name)


def test_the_page_in_docs_has_the_table_as_it_is():
    page = ROOT / "docs" / "settings.md"
    if not page.exists():
        pytest.skip("no docs beside these tests")
    assert page.read_text(encoding="utf-8").endswith(table()), "run `make docs`"


def test_settings_with_absolute_paths_mean_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "rediss://:x@host:6379/0?ssl_ca_certs=tls/ca.pem&ssl_certfile=/etc/a.pem&db=1"
    settings = Settings(redis_url=url, store_cache="cache", data="here/data")
    found = settings.with_absolute_paths()
    assert found.store == str(tmp_path / "store")
    assert found.data == str(tmp_path / "here" / "data")
    assert found.store_cache == str(tmp_path / "cache")
    assert found.redis_url == url.replace("tls/ca.pem", str(tmp_path / "tls" / "ca.pem"))
    assert found.with_absolute_paths() == found
    remote = Settings(store="s3://models/a").with_absolute_paths()
    assert (remote.store, remote.store_cache, remote.redis_url) == ("s3://models/a", None, None)
