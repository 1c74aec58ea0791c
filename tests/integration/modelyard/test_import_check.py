"""`import modelyard` where a user's files have the names of our packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.import_check import PACKAGES
from yard.platform import extras

#: Libraries that importing the face must not bring.
_HEAVY = ("redis", "rq", "pydantic", "numpy", "flask", "click", "yard.settings", *PACKAGES)


def python(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(extras.root()), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_script(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(code)
    return python(folder, "script.py")


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def package(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    return folder / name / "__init__.py"


def test_the_check_knows_all_our_packages():
    assert {*PACKAGES, "modelyard"} == set(extras.PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_module_beside_the_script_that_shadows_a_package_is_named(tmp_path: Path, name: str):
    shadow = tmp_path / f"{name}.py"
    shadow.touch()
    done = run_script(tmp_path, "import modelyard")
    assert done.returncode == 1
    assert last_line(done.stderr) == (
        f"ImportError: {shadow} shadows Modelyard's package {name!r}: "
        "rename it, or run from another folder or with `python -P`"
    )


@pytest.mark.parametrize("name", ["models", "worker"])
def test_a_module_in_the_current_folder_is_named(tmp_path: Path, name: str):
    (tmp_path / f"{name}.py").touch()
    done = python(tmp_path, "-c", "from modelyard import publish")
    assert done.returncode == 1
    assert f"{tmp_path}/{name}.py shadows Modelyard's package {name!r}: rename" in done.stderr


def test_a_package_of_the_user_s_is_named(tmp_path: Path):
    shadow = package(tmp_path, "models")
    done = python(tmp_path, "-c", "import modelyard")
    assert done.returncode == 1
    assert f"{shadow} shadows" in last_line(done.stderr)


def test_a_module_that_was_imported_before_is_named(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "gateway.py").touch()
    code = "import sys; sys.path.insert(0, 'elsewhere'); import gateway; sys.path.pop(0)\n"
    done = run_script(tmp_path, f"{code}import modelyard")
    assert done.returncode == 1
    assert "gateway.py shadows Modelyard's package 'gateway'" in last_line(done.stderr)


def test_a_file_further_on_the_path_is_not_said_to_be_in_the_current_folder(tmp_path: Path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "producer.py").touch()
    path = f"{tmp_path}/library:{extras.root()}"
    done = python(tmp_path, "-c", "import modelyard", PYTHONPATH=path)
    assert done.returncode == 1
    assert last_line(done.stderr).endswith(
        f"rename or remove it, or put {extras.root()} before {tmp_path}/library on Python's path"
    )


def test_a_module_that_was_made_by_hand_is_no_package_of_ours(tmp_path: Path):
    code = "import sys, types; sys.modules['yard'] = types.ModuleType('yard'); import modelyard"
    done = python(tmp_path, "-c", code)
    assert done.returncode == 1
    assert "shadows Modelyard's package 'yard'" in last_line(done.stderr)


def test_a_missing_package_is_named(tmp_path: Path):
    code = "import sys; sys.modules['worker'] = None; import modelyard"
    done = python(tmp_path, "-c", code)
    assert done.returncode == 1
    assert "package 'worker' is missing" in last_line(done.stderr)


def test_a_folder_that_is_no_package_does_not_shadow_one(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "iris.joblib").touch()
    done = run_script(tmp_path, "from modelyard import publish; print(publish.__module__)")
    assert done.stderr == ""
    assert done.stdout == "models.publish.publisher\n"


def test_a_folder_that_leads_to_ours_is_ours(tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(extras.root())
    code = f"import sys, yard; sys.path.insert(0, {str(link)!r}); import modelyard, yard.errors"
    done = python(tmp_path, "-c", code)
    assert done.stderr == ""
    assert done.returncode == 0


def test_python_p_passes_the_current_folder_over(tmp_path: Path):
    (tmp_path / "models.py").touch()
    done = python(tmp_path, "-P", "-c", "from modelyard import publish; print(publish.__name__)")
    assert done.stderr == ""
    assert done.stdout == "publish\n"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_module_runs_where_a_package_is_shadowed(tmp_path: Path, name: str):
    (tmp_path / f"{name}.py").touch()
    done = python(tmp_path, "-m", "modelyard", "--version")
    assert done.stderr == ""
    assert done.stdout == f"modelyard {extras.version()}\n"


def test_the_command_runs_where_packages_are_shadowed(tmp_path: Path):
    command = Path(sys.executable).with_name("modelyard")
    if not command.exists():
        pytest.skip("the command is not installed beside this Python")
    for name in PACKAGES:
        (tmp_path / f"{name}.py").touch()
    done = subprocess.run(
        [command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout == f"modelyard {extras.version()}\n"


def test_another_module_s_run_is_checked_all_the_same(tmp_path: Path):
    package(tmp_path, "mine").write_text("import modelyard")
    (tmp_path / "mine" / "__main__.py").touch()
    (tmp_path / "models.py").touch()
    done = python(tmp_path, "-m", "mine")
    assert done.returncode == 1
    assert "shadows" in last_line(done.stderr)


def test_importing_the_face_is_light(tmp_path: Path):
    heavy = [name for name in _HEAVY if name != "yard"]  # that turns telemetry off, and no more
    code = f"import modelyard, sys; print([name for name in {heavy!r} if name in sys.modules])"
    assert python(tmp_path, "-c", code).stdout == "[]\n"


def test_publishing_without_its_libraries_names_the_extra(tmp_path: Path):
    code = "import sys; sys.modules['onnxruntime'] = None; from modelyard import publish"
    done = python(tmp_path, "-c", code)
    assert done.returncode == 1
    assert last_line(done.stderr) == (
        "ImportError: `modelyard.publish` needs onnxruntime: pip install 'modelyard[worker]'"
    )


def test_the_face_has_no_other_name(tmp_path: Path):
    done = python(tmp_path, "-c", "from modelyard import unpublish")
    assert done.returncode == 1
    assert "cannot import name 'unpublish'" in last_line(done.stderr)
