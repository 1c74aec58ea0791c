"""All examples of the help, and the Python of README and docs, on a yard with its examples."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from modelyard import cli
from tests.helpers import ROOT
from tests.helpers.yards import RunningYard, running_yard

pytestmark = pytest.mark.timeout(600)

#: Examples that serve until they are stopped, ask a person, or end the yard or a job that waits;
#: the tests of these commands run them.
LEFT_OUT = {
    "modelyard gateway --port 8080 --processes 2",
    "modelyard pool --min 1 --max 4",
    "modelyard logs -f",
    "modelyard delete iris v1",
    "modelyard cancel ID",
    "modelyard stop --yard shop --timeout 10",
    "modelyard stop",
}

#: In an order in which each is allowed; `ID` is that of a job that was queued before.
ORDER = """\
modelyard status
modelyard status --yard shop --json
modelyard logs
modelyard logs pool -n 100
modelyard publish iris v3 iris.joblib --example rows.json --activate
modelyard quantize digits v1 v1-small
modelyard examples --if-empty
modelyard models
modelyard route iris
modelyard activate iris v2
modelyard weights iris v1=90 v2=10
modelyard weights iris --clear
modelyard alias iris champion v2
modelyard submit iris '[[5.1, 3.5, 1.4, 0.2]]' --version champion --wait
modelyard alias iris champion --delete
modelyard rollback iris
modelyard activate iris v2
modelyard inspect iris v1
modelyard verify
modelyard verify iris v1
modelyard verify --no-open --json
modelyard export iris v1 iris-v1.tar
modelyard export iris v1 ./iris-v1
modelyard retire iris v1
modelyard retire iris v1 --undo
modelyard delete iris v1 --yes
modelyard import iris-v1.tar
modelyard import ./iris-v1 --activate
modelyard gc --dry-run
modelyard gc --older-than 2
modelyard submit iris '[[5.1, 3.5, 1.4, 0.2]]' --wait
modelyard submit sentiment '["what a lovely film"]' --wait 5
modelyard submit iris @rows.json --version v2 --json
modelyard result ID --wait 10
modelyard jobs
modelyard jobs iris --status failed --limit 5
""".splitlines()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    folder = tmp_path_factory.mktemp("yards") / "shop"
    folder.mkdir()
    with running_yard(folder) as found:
        found.start()
        found.wait_for("Modelyard is ready", 120)
        yield found


def run(shop: RunningYard, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-P", *words],
        cwd=shop.folder,
        env=shop.environ | {"PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{words} {stdin}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def helped() -> set[str]:
    """All examples at the end of the commands' help."""
    context = click.Context(cli.main)
    texts = []
    for name in cli.COMMANDS:
        command = cli.main.get_command(context, name)
        assert command is not None
        texts.append(command.epilog or "")
    return set(re.findall(r"(?m)(?:^ +|Example: )(modelyard .+)$", "\n".join(texts)))


def test_every_example_of_the_help_is_tried_here():
    assert helped() == set(ORDER) | LEFT_OUT


def scripts(path: str) -> list[str]:
    """The Python of a page: what is between `python -` and `END`, or begins with an import."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / path).read_text(), re.MULTILINE)
    found = []
    for block in map(textwrap.dedent, blocks):
        found += re.findall(r"python - <<'END'\n(.*?)^END$", block, re.DOTALL | re.MULTILINE)
        if re.match(r"\s*(?:from|import) ", block):
            found.append(block)
    return found


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no checkout: the pages are not here")
@pytest.mark.parametrize(("page", "count"), [("README.md", 5), ("docs/models.md", 1)])
def test_the_python_of_a_page_runs(shop: RunningYard, page: str, count: int):
    found = scripts(page)
    assert len(found) >= count
    for number, script in enumerate(found):
        # Each page publishes versions of a model of its own.
        name = f"{Path(page).stem.lower()}-wine"
        said = run(shop, "-", stdin=script.replace('"wine"', f'"{name}"'))
        if number == 0 and page == "README.md":
            assert "['setosa']" in said


def test_the_examples_of_the_help_work(shop: RunningYard):
    run(shop, "-", stdin=FITTED)
    job_id = ""
    for line in ORDER:
        words = [job_id if word == "ID" else word for word in shlex.split(line)[1:]]
        said = run(shop, "-m", "modelyard.cli", *words)
        if words[0] == "submit" and "--json" in words:
            job_id = re.findall(r'"id": "([^"]+)"', said)[0]


FITTED = """
import json, joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
iris = load_iris()
estimator = LogisticRegression(max_iter=500).fit(iris.data, iris.target_names[iris.target])
joblib.dump(estimator, "iris.joblib")
json.dump(iris.data[:3].tolist(), open("rows.json", "w"))
"""
