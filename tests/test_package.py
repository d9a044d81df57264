"""The package: files of the wheel, programs after installation, declared dependencies."""

import ast
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.programs import ROOT

PACKAGES = ("jaxnas", "profiling", "experiments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TABLE = "profiling/shipped_tables/myriadx_compiler_proxyless_224.json"
# Its imports are those of the MyriadX compiler's environment.
WORKER = ROOT / "profiling/myriad/worker.py"


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def requirements(lines: list[str]) -> dict[str, Requirement]:
    """Returns distribution name → requirement, without comments and empty lines."""
    parsed = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(file: str) -> dict[str, Requirement]:
    return requirements((ROOT / file).read_text().splitlines())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Builds the wheel without a network, from a copy: a build writes into the source folder."""
    folder = tmp_path_factory.mktemp("sources")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    wheels = tmp_path_factory.mktemp("wheels")
    options = ("--no-index", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}")
    pip("wheel", *options, str(folder))
    (file,) = wheels.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-index", "--no-deps", f"--target={folder}", str(wheel))
    return folder


def run_installed(installed, cwd, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python in a folder from which the sources cannot be imported."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_wheel_holds_the_packages_with_their_data_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert [name for name in about if name.endswith("/LICENSE")]
    files = (f for package in PACKAGES for f in (ROOT / package).rglob("*.*"))
    wanted = {
        str(file.relative_to(ROOT))
        for file in files
        if file.suffix in (".py", ".json", ".csv", ".css")
    }
    assert TABLE in wanted and "profiling/myriad/public_counters.csv" in wanted
    assert names - about == wanted


def test_program_starts_where_the_package_is_installed(installed, tmp_path):
    done = run_installed(installed, tmp_path, "-m", "experiments.search", "--help")
    assert done.returncode == 0, done.stderr
    assert "--target_ms" in done.stdout


def test_installed_package_reads_its_own_table(installed, tmp_path):
    code = (
        "from jaxnas.latency import LatencyTable\n"
        "from jaxnas.space_file import find_space\n"
        "from profiling import tables\n"
        "from profiling.device import Options\n"
        "space = find_space('proxyless')\n"
        "file = tables.shipped('MYRIADX_COMPILER', space, 224, Options())\n"
        "LatencyTable.load(file, space)\n"
        "print(file)"
    )
    done = run_installed(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()) == installed / TABLE


def test_every_import_is_of_a_declared_dependency():
    extras = PROJECT["optional-dependencies"]
    declared = set(requirements([*PROJECT["dependencies"], *extras["oak"], *extras["tensorboard"]]))
    distributions = importlib.metadata.packages_distributions()
    for file in (f for package in PACKAGES for f in (ROOT / package).rglob("*.py")):
        if file == WORKER:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                continue
            for top in {name.split(".")[0] for name in names}:
                if top not in sys.stdlib_module_names and top not in PACKAGES:
                    found = {canonicalize_name(name) for name in distributions[top]}
                    assert found & declared, f"{file} imports {top}"


def test_tested_versions_lie_in_the_declared_ranges():
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *extras.values()]
    tested = {name: next(iter(pin.specifier)) for name, pin in pins("requirements.txt").items()}
    assert set(tested) == {name for lines in lists for name in requirements(lines)}
    for lines in lists:
        for name, requirement in requirements(lines).items():
            assert tested[name].operator == "==", name
            assert requirement.specifier.contains(tested[name].version), requirement


def test_lock_has_the_tested_versions_and_what_they_require():
    locked, tested = pins("requirements_lock.txt"), pins("requirements.txt")
    # What MODULE.bazel asks for.
    machine = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}
    for name, pin in tested.items():
        assert locked[name] == pin
        for text in importlib.metadata.requires(name) or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({**machine, "extra": ""}):
                assert canonicalize_name(required.name) in locked, f"{name} requires {text}"
