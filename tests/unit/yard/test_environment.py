"""The environment of a child of ours, which may run in another folder."""

from __future__ import annotations

import os

from yard.platform import child_environment


def test_relative_paths_of_modules_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "", "/opt/x"]))
    found = child_environment({})["PYTHONPATH"].split(os.pathsep)
    assert found[:3] == [str(tmp_path / "lib"), str(tmp_path), "/opt/x"]


def test_no_path_of_modules_stays_none(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert os.getcwd() not in child_environment({}).get("PYTHONPATH", "").split(os.pathsep)[:-1]


def test_variables_that_name_a_file_name_it_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", "ca.pem")
    monkeypatch.setenv("AWS_CONFIG_FILE", "not-there")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/etc/passwd")
    found = child_environment({"MODELYARD_X": "ca.pem"})
    assert found["SSL_CERT_FILE"] == str(tmp_path / "ca.pem")
    assert found["AWS_CONFIG_FILE"] == "not-there"
    assert found["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/passwd"
    assert found["MODELYARD_X"] == "ca.pem"
