"""The BUILD files agree with the sources."""

import ast
import functools
import graphlib
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.programs import ROOT

FOLDERS = ("jaxnas", "profiling", "experiments", "tests")
# Its imports are those of the compiler's environment.
WORKER = "profiling/myriad/worker.py"
# The program of every test; a test also needs what pytest itself imports.
RUNNER = "tests/run_pytest.py"
OF_EVERY_TEST = {"//tests:conftest", "@pypi//pytest"}
RULES = ("py_library", "py_binary", "py_test", "alias", "filegroup")


def full_label(label: str, package: str) -> str:
    """Returns `//package:name` for a label of this project, and other labels unchanged."""
    if label.startswith("@"):
        return label
    if label.startswith("//"):
        return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"
    return f"//{package}:{label.removeprefix(':')}"


@functools.cache
def targets() -> dict[str, dict]:
    """Returns label → attributes: runs the BUILD files as Python, with functions for the rules."""
    found = {}
    for file in (
        ROOT / "BUILD",
        *(f for folder in FOLDERS for f in (ROOT / folder).rglob("BUILD")),
    ):
        package = "" if file.parent == ROOT else str(file.parent.relative_to(ROOT))

        def add(rule: str, *, package: str = package, **attributes) -> None:
            label = full_label(attributes["name"], package)
            assert label not in found, label
            found[label] = {
                "rule": rule,
                "package": package,
                **attributes,
                **{
                    key: [full_label(item, package) for item in attributes.get(key, ())]
                    for key in ("srcs", "data", "deps")
                },
            }

        def export(files: list[str], package: str = package) -> None:
            for name in files:
                add("file", package=package, name=name)

        def glob(patterns: list[str], folder: pathlib.Path = file.parent) -> list[str]:
            files = {f for pattern in patterns for f in folder.glob(pattern) if f.is_file()}
            return sorted(str(f.relative_to(folder)) for f in files)

        names = {rule: functools.partial(add, rule) for rule in RULES} | {
            "load": lambda *_: None,
            "package": lambda **_: None,
            "exports_files": export,
            "glob": glob,
        }
        exec(compile(file.read_text(), file, "exec"), names)
    return found


def by_source() -> dict[str, tuple[str, dict]]:
    """Returns source path → the label and attributes of its one target."""
    found = {}
    for label, target in targets().items():
        if target["rule"].startswith("py_"):
            sources = {path(source) for source in target["srcs"]} - {RUNNER}
            assert len(sources) == 1, label
            (source,) = sources
            assert source not in found, f"{source} is in two targets"
            found[source] = (label, target)
    return found


def path(label: str) -> str:
    return label.removeprefix("//").replace(":", "/").removeprefix("/")


@functools.cache
def sources() -> dict[str, pathlib.Path]:
    """Returns module name → file, without empty __init__ files."""
    files = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py") if f.stat().st_size]
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for f in files
    }


def imports(file: pathlib.Path) -> set[str]:
    """Returns full names of the project's modules, and `@pypi//name` for other packages."""
    modules, names = sources(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(modules)
            if inner - set(modules):
                names.add(node.module)
    found = {name for name in names if modules.get(name, file) != file}
    for top in {name.partition(".")[0] for name in names} - set(FOLDERS) - sys.stdlib_module_names:
        (name,) = {bazel_name(distribution) for distribution in distributions()[top]} & pins()
        found.add(f"@pypi//{name}")
    return found


distributions = functools.cache(importlib.metadata.packages_distributions)


def bazel_name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "_", distribution).lower()


@functools.cache
def pins() -> set[str]:
    """Returns the packages of requirements.txt by their names in @pypi."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {bazel_name(line.partition("==")[0]) for line in lines if "==" in line}


def test_every_source_has_one_target_with_its_imports():
    found, modules = by_source(), sources()
    wanted = {str(f.relative_to(ROOT)) for f in modules.values()} - {RUNNER}
    assert set(found) == wanted
    for source, (label, target) in found.items():
        expected = {
            name if name.startswith("@") else found[str(modules[name].relative_to(ROOT))][0]
            for name in imports(ROOT / source)
        }
        if source == WORKER:
            expected = set()
        if target["rule"] == "py_test":
            expected |= OF_EVERY_TEST
        assert set(target["deps"]) == expected, label
        assert len(target["deps"]) == len(expected), f"{label} names a dependency twice"


def test_targets_are_named_and_made_as_their_sources():
    for source, (label, target) in by_source().items():
        file = pathlib.PurePath(source)
        is_named_after_folder = file.stem in ("__main__", "__init__")
        assert target["name"] == (file.parent.name if is_named_after_folder else file.stem)
        tree = ast.parse((ROOT / source).read_text())
        is_program = any(
            isinstance(node, ast.If) and "'__main__'" in ast.unparse(node.test)
            for node in tree.body
        )
        if file.name.startswith("test_"):
            assert target["rule"] == "py_test", label
            assert {path(item) for item in target["srcs"]} == {source, RUNNER}
            assert (path(full_label(target["main"], target["package"])), target["args"]) == (
                RUNNER,
                [source],
            )
            assert target["size"] in ("small", "medium", "large")
        else:
            is_binary = is_program and source != WORKER
            assert target["rule"] == ("py_binary" if is_binary else "py_library"), label
            assert target.get("main", file.name) == file.name, label


def test_files_that_targets_name_exist():
    for label, target in targets().items():
        for item in (*target["srcs"], *target["data"], *filter(None, [target.get("actual")])):
            assert full_label(item, "") in targets() or (ROOT / path(item)).is_file(), (label, item)


def test_every_data_file_belongs_to_a_target():
    named = {path(item) for target in targets().values() for item in target["data"]}
    files = {f for folder in FOLDERS for f in (ROOT / folder).rglob("*.*")}
    data = {
        str(f.relative_to(ROOT)) for f in files if f.suffix in (".json", ".csv", ".css", ".dot")
    }
    assert data <= named


def test_imports_go_one_way():
    programs = ("benchmark", "compare", "search", "study", "sweep", "train", "truth")
    all_programs = ("//experiments:", *(f"//experiments/{p}" for p in programs))
    above = {
        "//jaxnas": ("//profiling", "//experiments", "//tests"),
        "//profiling": ("//experiments", "//tests"),
        "//experiments": ("//tests",),
        "//experiments/runs": ("//experiments/pages", *all_programs),
        "//experiments/pages": all_programs,
        "//experiments/train": tuple(f"//experiments/{p}" for p in programs if p != "train"),
        "//experiments/search": tuple(
            f"//experiments/{p}" for p in programs if p not in ("search", "train")
        ),
    }
    for label, target in targets().items():
        for package, forbidden in above.items():
            if label.startswith((f"{package}:", f"{package}/")):
                assert not [d for d in target["deps"] if d.startswith(forbidden)], label


def test_imports_have_no_cycle():
    graph = {label: target["deps"] + target["data"] for label, target in targets().items()}
    # Raises CycleError, which names the cycle.
    assert set(graph) <= set(graphlib.TopologicalSorter(graph).static_order())


# Stand-ins for what Bazel would download, so that the query needs no network: the rules for Python,
# which Bazel 4 has built in, and repositories that its own tools refer to.
RULES_PYTHON = "".join(
    f"{rule} = native.{rule}\n" for rule in ("py_binary", "py_library", "py_test")
)
RULES_CC = "".join(
    f"{rule} = native.{rule}\n"
    for rule in (
        "cc_binary",
        "cc_library",
        "cc_proto_library",
        "cc_test",
        "cc_toolchain",
        "cc_toolchain_suite",
    )
)
VISIBLE = 'visibility = ["//visibility:public"]'
COVERAGE = "".join(
    f'filegroup(name = "{name}", {VISIBLE})\n'
    for name in ("coverage_report_generator", "lcov_merger")
)


def test_bazel_resolves_every_target(tmp_path):
    if shutil.which("bazel") is None:
        pytest.skip("bazel is not installed (Debian: apt install bazel-bootstrap bazel-rules-cc)")
    repositories = {
        "rules_python": {"python/BUILD": "", "python/defs.bzl": RULES_PYTHON},
        "pypi": {f"{name}/BUILD": f'py_library(name = "{name}", {VISIBLE})\n' for name in pins()},
        "rules_cc": {"cc/BUILD": "", "cc/defs.bzl": RULES_CC},
        "remote_coverage_tools": {"BUILD": COVERAGE},
    }
    for name, files in (("workspace", {}), *repositories.items()):
        for file, text in {**files, "WORKSPACE": ""}.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
    for file in (f for pattern in ("BUILD", "*.*") for f in ROOT.glob(pattern) if f.is_file()):
        (tmp_path / "workspace" / file.name).symlink_to(file)
    for folder in (*FOLDERS, "docs"):
        (tmp_path / "workspace" / folder).symlink_to(ROOT / folder)
    bazel = ["bazel", f"--output_user_root={tmp_path / 'bazel'}"]
    stand_ins = [f"--override_repository={name}={tmp_path / name}" for name in repositories]
    try:
        query = subprocess.run(
            [*bazel, "query", "deps(//...)", *stand_ins],
            cwd=tmp_path / "workspace",
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        subprocess.run(
            [*bazel, "shutdown"], cwd=tmp_path / "workspace", capture_output=True, timeout=60
        )
    assert query.returncode == 0, query.stderr
    found = set(query.stdout.splitlines())
    assert {label for label, target in targets().items() if target["rule"] != "file"} <= found
    for target in targets().values():
        assert {*target["srcs"], *target["data"]} <= found
        for label in target["deps"]:
            assert (f"{label}:{label.rpartition('/')[2]}" if label[0] == "@" else label) in found
