"""`hasite-render --diff` and what rendering again does to an output folder."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from deploying import SITES, hasite, hasite_here, tree

from cubicweb_hasite.deploy import load, output, render

[SITE] = [path for path in SITES if path.stem == "no_apache"]
SQUID = "web1/etc/squid/hasite.conf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a site file, and in `out` what it gives."""
    shutil.copy(SITE, tmp_path / "site.toml")
    again(tmp_path)
    return tmp_path


def again(folder: Path) -> None:
    output.write(render.render(load.load(folder / "site.toml")), folder / "out")


def diff(folder: Path, *args: object) -> tuple[int, str]:
    """Return the exit status and the output of `--diff`."""
    result = hasite_here("render", "--diff", *args, cwd=folder)
    assert result.stderr == ""
    return result.returncode, result.stdout


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "site.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_nothing_differs(folder: Path) -> None:
    assert diff(folder, "site.toml", "out") == (0, "")


def test_edited_by_hand(folder: Path) -> None:
    path = folder / "out" / SQUID
    path.write_text(path.read_text().replace("cache_mem 256 MB", "cache_mem 512 MB"))
    status, output = diff(folder, "site.toml", "out")
    assert status == 1
    assert f"--- out/{SQUID}\n+++ out/{SQUID} (rendered)\n" in output
    assert "\n-cache_mem 512 MB\n+cache_mem 256 MB\n" in output
    process = hasite("render", "--diff", "site.toml", "out", cwd=folder)
    assert (process.returncode, process.stdout, process.stderr) == (1, output, "")
    again(folder)
    assert diff(folder, "site.toml", "out") == (0, "")


@pytest.mark.parametrize("path", [SQUID, "runbook.md", "architecture.svg"])
def test_removed(folder: Path, path: str) -> None:
    (folder / "out" / path).unlink()
    assert diff(folder, "site.toml", "out") == (1, f"out/{path}: is missing\n")


def test_edited_drawing(folder: Path) -> None:
    (folder / "out" / "architecture.svg").write_text("<svg/>")
    assert diff(folder, "site.toml", "out") == (1, "out/architecture.svg: was edited\n")


def test_manifest_of_somebody_else(folder: Path) -> None:
    """Nothing outside of the folder is removed, whatever it says."""
    (folder / "precious").touch()
    with (folder / "out" / "MANIFEST").open("a") as manifest:
        manifest.write(f"{'0' * 64}  ../precious\n{'0' * 64}  {folder}/precious\n")
    again(folder)
    assert (folder / "precious").exists()


def test_other_mode(folder: Path) -> None:
    (folder / "out/db1/usr/local/sbin/hasite-backup").chmod(0o644)
    message = "out/db1/usr/local/sbin/hasite-backup: its mode is 0644, it should be 0755\n"
    assert diff(folder, "site.toml", "out") == (1, message)


def test_root_of_a_host(folder: Path) -> None:
    """What is installed on a host against what would be: its own files alone count."""
    shutil.copytree(folder / "out" / "web1", folder / "root")
    (folder / "root" / "etc" / "fstab").touch()
    assert diff(folder, "--host", "web1", "site.toml", "root") == (0, "")
    (folder / "root" / "etc/squid/squid.conf").unlink()
    status, output = diff(folder, "--host=web1", "site.toml", "root")
    assert (status, output) == (1, "root/etc/squid/squid.conf: is missing\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_other_owner(folder: Path) -> None:
    """All files on a host belong to root, like the host itself."""
    shutil.copytree(folder / "out" / "db1", folder / "root")
    path = "etc/postgresql/15/main/pg_hba.conf"
    shutil.chown(folder / "root" / path, "nobody", "nogroup")
    status, said = diff(folder, "--host=db1", "site.toml", "root")
    assert (status, said) == (
        1,
        f"root/{path}: it belongs to nobody:nogroup, it should be root:root\n",
    )
    os.chown(folder / "root" / path, 54321, 54322)
    assert "it belongs to 54321:54322" in diff(folder, "--host=db1", "site.toml", "root")[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_copied_as_the_runbook_says(folder: Path) -> None:
    """By somebody whose files nobody else may read, to a host where some files are already."""
    runbook = (folder / "out" / "runbook.md").read_text()
    [copy] = re.findall(r"(?m)^ *(copy\(\) .*)$", runbook)
    root = folder / "root"
    hba = root / "etc/postgresql/15/main/pg_hba.conf"
    hba.parent.mkdir(parents=True)
    shutil.chown(hba.parent, "nobody", "nogroup")
    hba.write_text("# of Debian\n")
    hba.chmod(0o640)
    shutil.chown(hba, "nobody", "nogroup")
    (root / "elsewhere").mkdir()
    (root / "usr").mkdir()
    (root / "usr" / "local").symlink_to(root / "elsewhere")
    for path in (folder / "out").rglob("*"):
        os.chown(path, 12345, 12345)
        path.chmod(path.stat().st_mode & 0o700)
    script = f"""ssh() {{ shift; sh -c "$(echo "$@" | sed "s:-C /:-C {root}:")"; }}\n"""
    subprocess.run(["bash", "-c", f"{script}{copy}\ncopy db1 db1"], cwd=folder / "out", check=True)
    assert diff(folder, "--host=db1", "site.toml", "root") == (0, "")
    assert (hba.parent.owner(), hba.owner()) == ("nobody", "root")
    assert (root / "usr" / "local").is_symlink()
    assert (root / "elsewhere" / "sbin" / "hasite-backup").stat().st_mode & 0o777 == 0o755


def test_host_is_this_machine(folder: Path) -> None:
    name = socket.gethostname().partition(".")[0]
    shutil.copytree(folder / "out" / "web1", folder / "root")
    result = hasite_here("render", "--diff", "site.toml", "root", cwd=folder)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"{name} is not a host of the site file; give one with --host: "
        "lb1, lb2, web1, web2, db1, db2\n"
    )


def test_only_the_digest_differs(folder: Path) -> None:
    """A change of the site file that is not for a host does not show there."""
    change(folder, "[hosts.db1]", "# the primary\n[hosts.db1]")
    assert diff(folder, "site.toml", "out") == (0, "")


def test_changed_site_file(folder: Path) -> None:
    change(folder, "processors = 2", "processors = 1")
    status, output = diff(folder, "site.toml", "out")
    assert status == 1
    assert "-    server web1-2 10.0.0.21:82\n" in output
    assert "out/web1/etc/hasite/mysite-2.env: is not rendered any more\n" in output
    assert "/postgresql.conf" not in output


def test_no_folder(folder: Path) -> None:
    result = hasite_here("render", "--diff", "site.toml", "nowhere", cwd=folder)
    assert (result.returncode, result.stderr) == (1, "nowhere is no folder\n")


def test_again_removes_what_is_not_rendered_any_more(folder: Path) -> None:
    """And nothing else: the folder may be under version control."""
    (folder / "out" / ".git").mkdir()
    (folder / "out" / ".git" / "HEAD").touch()
    (folder / "out" / "web1" / "notes").touch()
    change(folder, "processors = 2", "processors = 1")
    change(folder, "web2", "web3")
    again(folder)
    found = tree(folder / "out")
    assert ".git/HEAD" in found
    assert "web1/notes" in found
    assert "web1/etc/hasite/mysite-1.env" in found
    assert "web1/etc/hasite/mysite-2.env" not in found
    assert not (folder / "out" / "web2").exists()
    assert diff(folder, "site.toml", "out") == (0, "")


def test_disk_that_takes_no_more_changes_nothing(folder: Path) -> None:
    """The kernel refuses to write more than some bytes of a file, in the middle of the folder."""
    before = tree(folder / "out")
    change(folder, "processors = 2", "processors = 1")
    command = Path(sys.executable).with_name("cubicweb-ctl")
    # coverage would write a file of its own
    environ = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    result = subprocess.run(
        ["prlimit", "--fsize=8192", command, "hasite-render", "site.toml", "out"],
        cwd=folder,
        env={**environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert tree(folder / "out") == before
    assert {path.name for path in folder.iterdir()} == {"site.toml", "out"}
    assert not list((folder / "out").glob(".hasite-*"))
