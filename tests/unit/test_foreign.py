"""Another distribution's `commandbus` is noticed when ours is imported, and by the plugin."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import commandbus
from commandbus._foreign import ForeignPackageError, check
from pytest_commandbus._ours import NotOurCommandbusError, require_our_commandbus

OURS = Path(commandbus.__file__).parent


def install(folder: Path, distribution: str, *, ours: bool) -> Path:
    """Lay out `folder` as pip does: a package `commandbus` (ours, or a foreign one) and the distribution's metadata."""
    package = folder / "commandbus"
    if ours:
        shutil.copytree(OURS, package, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("class Bus: ...\n")
    metadata = folder / f"{distribution}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution.split('-')[0]}\nVersion: 1\n")
    return folder


def run(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    first = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", first + program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("metadata", "name"), [("reliable_cmd-0.2.2", "reliable-cmd"), ("commandbus-1.0.1", "commandbus")]
)
def test_a_foreign_distribution_in_our_folder_stops_the_import(tmp_path: Path, metadata: str, name: str) -> None:
    site = install(tmp_path, metadata, ours=True)
    result = run("import commandbus._foreign", site)
    assert result.returncode == 1
    assert "ForeignPackageError" in result.stderr
    assert f"pip uninstall {name} && pip install --force-reinstall --no-deps pytest-commandbus" in result.stderr


def test_a_foreign_distribution_elsewhere_on_the_path_is_a_warning(tmp_path: Path) -> None:
    site = install(tmp_path / "ours", "pytest_commandbus-0.1.0", ours=True)
    other = install(tmp_path / "theirs", "reliable_cmd-0.2.2", ours=False)
    result = run("import commandbus._foreign", site, other)
    assert result.returncode == 0, result.stderr
    assert "RuntimeWarning: reliable-cmd, installed in" in result.stderr
    assert "pip uninstall reliable-cmd" in result.stderr


def test_our_own_installation_is_silent(tmp_path: Path) -> None:
    site = install(tmp_path / "ours", "pytest_commandbus-0.1.0", ours=True)
    (tmp_path / "commandbus-notes").mkdir()
    result = run("import commandbus._foreign", site, tmp_path, tmp_path / "missing")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_plugin_notices_a_commandbus_that_is_not_ours(tmp_path: Path) -> None:
    other = install(tmp_path, "reliable_cmd-0.2.2", ours=False)
    result = run("from pytest_commandbus._ours import require_our_commandbus as r; r()", other)
    assert "NotOurCommandbusError" in result.stderr
    assert "pip uninstall reliable-cmd commandbus" in result.stderr


def test_the_plugin_notices_that_commandbus_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "commandbus").mkdir()  # what an uninstall may leave: a folder without modules
    monkeypatch.delitem(sys.modules, "commandbus")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(NotOurCommandbusError, match="is missing"):
        require_our_commandbus()


def test_the_plugin_is_content_with_ours() -> None:
    require_our_commandbus()


def test_the_check_reads_no_metadata_and_each_folder_once(tmp_path: Path) -> None:
    site = install(tmp_path, "reliable_cmd-0.2.2", ours=True)
    shutil.rmtree(site / "reliable_cmd-0.2.2.dist-info")
    (site / "reliable_cmd-0.2.2.dist-info").mkdir()  # empty: its name alone is enough
    with pytest.raises(ForeignPackageError) as raised:
        check(site / "commandbus", [str(site), str(site)])
    assert raised.value.path == str(site / "commandbus")
