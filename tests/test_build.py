"""BUILD says what the sources say."""

import ast
import pathlib
import shutil
import subprocess

import pytest

from tests.programs import ROOT

FOLDERS = ("jaxnas", "profiling", "experiments", "tests")


def build_targets() -> dict[str, dict]:
    """The calls in BUILD by the source of each; Starlark here is Python's syntax."""
    targets = {}
    for node in ast.parse((ROOT / "BUILD").read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = {k.arg: ast.literal_eval(k.value) for k in node.value.keywords}
            if "srcs" in call:
                (source,) = call["srcs"]
                assert source not in targets, f"{source} is in two targets"
                targets[source] = call | {"rule": node.value.func.id}
    return targets


def sources() -> dict[str, pathlib.Path]:
    """Module name → file, but for empty __init__ files."""
    files = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py") if f.stat().st_size]
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for f in files
    }


def imports(file: pathlib.Path, modules: dict[str, pathlib.Path]) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {
        f":{modules[n].relative_to(ROOT).with_suffix('')}"
        for n in names & set(modules)
        if modules[n] != file
    }


def test_every_source_has_one_target_with_its_imports():
    targets, modules = build_targets(), sources()
    assert set(targets) == {str(f.relative_to(ROOT)) for f in modules.values()}
    for file in modules.values():
        call = targets[str(file.relative_to(ROOT))]
        assert call["name"] == str(file.relative_to(ROOT).with_suffix(""))
        assert set(call.get("deps", [])) == imports(file, modules), call["name"]
        assert (call["rule"] == "py_test") == file.name.startswith("test_")


def test_files_that_targets_name_are_there():
    names = {call["name"] for call in build_targets().values()}
    for call in build_targets().values():
        for data in call.get("data", []):
            assert data.removeprefix(":") in names if data[0] == ":" else (ROOT / data).exists()


def test_imports_go_one_way():
    below = {"jaxnas": {"profiling", "experiments"}, "profiling": {"experiments"}}
    for name, call in build_targets().items():
        above = below.get(name.split("/")[0], set())
        assert not {d for d in call.get("deps", []) if d[1:].split("/")[0] in above}, name


# What Bazel 4 would download to know its own tools by: no network is needed to query ours.
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
COVERAGE = "".join(
    f'filegroup(name = "{name}", visibility = ["//visibility:public"])\n'
    for name in ("coverage_report_generator", "lcov_merger")
)


def test_bazel_resolves_every_target(tmp_path):
    if shutil.which("bazel") is None:
        pytest.skip("bazel is not installed (Debian: apt install bazel-bootstrap bazel-rules-cc)")
    workspace = tmp_path / "workspace"
    for name, files in (
        ("workspace", {}),
        ("rules_cc", {"cc/BUILD": "", "cc/defs.bzl": RULES_CC}),
        ("remote_coverage_tools", {"BUILD": COVERAGE}),
    ):
        for file, text in {**files, "WORKSPACE": ""}.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
    tracked = ("BUILD", "README.md", *(file.name for file in ROOT.glob("*.flags")), *FOLDERS)
    for name in tracked:
        (workspace / name).symlink_to(ROOT / name)
    bazel = ["bazel", f"--output_user_root={tmp_path / 'bazel'}"]
    try:
        query = subprocess.run(
            [
                *bazel,
                "query",
                "deps(//...)",
                f"--override_repository=rules_cc={tmp_path / 'rules_cc'}",
                f"--override_repository=remote_coverage_tools={tmp_path / 'remote_coverage_tools'}",
            ],
            cwd=workspace,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        subprocess.run([*bazel, "shutdown"], cwd=workspace, capture_output=True, timeout=60)
    assert query.returncode == 0, query.stderr
    found = {line.removeprefix("//:") for line in query.stdout.splitlines()}
    targets = build_targets()
    assert {call["name"] for call in targets.values()} | set(targets) <= found
