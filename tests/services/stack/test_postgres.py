import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.stack.errors import FolderInUse, StackError
from services.stack.guarded import wait_until
from services.stack.postgres import EmbeddedPostgres
from tests.services.stack.conftest import ROOT, Owners, ended, new_folder

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def session(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """One server for the tests that do not mind restarts."""
    with new_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres")
        postgres.start()
        yield postgres
        postgres.stop()


class TestStart:
    def test_gives_database_and_roles(self, server: EmbeddedPostgres) -> None:
        """The runtime role can log in, owns nothing and bypasses nothing; no TCP port is open."""
        with session(server.runtime_url) as connection:
            row = connection.execute(
                "SELECT current_user, rolsuper, rolbypassrls, rolinherit, current_database(),"
                " current_setting('listen_addresses'), current_setting('fsync'), current_setting('data_checksums')"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row == ("longhaul_runtime", False, False, False, "longhaul", "", "on", "on")
        with session(server.superuser_url) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)

    def test_is_a_unix_socket_in_a_private_folder(self, server: EmbeddedPostgres) -> None:
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        assert (server.socket_dir / ".s.PGSQL.5432").is_socket()

    def test_twice_is_once(self, server: EmbeddedPostgres) -> None:
        pid = server.pid
        server.start()
        assert server.pid == pid

    def test_a_living_owner_keeps_others_off(self, server: EmbeddedPostgres) -> None:
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}; .*LONGHAUL_DATA_DIR"):
            EmbeddedPostgres(server.data_dir).start()
        assert server.running

    def test_refuses_a_folder_of_something_else(self, folder: Path) -> None:
        letters = folder / "letters"
        letters.mkdir()
        (letters / "letter.txt").write_text("dear")
        with pytest.raises(StackError, match="neither empty nor a PostgreSQL folder"):
            EmbeddedPostgres(letters).start()

    def test_reports_the_log_when_it_fails(self, server: EmbeddedPostgres) -> None:
        server.stop()
        with pytest.raises(StackError, match="unrecognized configuration parameter"):
            EmbeddedPostgres(server.data_dir, settings={"no_such_setting": "1"}).start()
        server.start()


class TestDurability:
    def test_stop_and_start_keep_the_data(self, server: EmbeddedPostgres) -> None:
        with session(server.superuser_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        server.stop()
        assert not server.running
        server.start()
        with session(server.superuser_url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)

    def test_a_committed_row_survives_sigkill(self, server: EmbeddedPostgres) -> None:
        """Also with a session open, whose orphaned back end still holds the shared memory for a moment."""
        with session(server.superuser_url) as connection:
            connection.execute("CREATE TABLE survivors AS SELECT 7 AS n")
            server.kill()
            assert not server.running
            server.start()
        with session(server.superuser_url) as connection:
            assert connection.execute("SELECT n FROM survivors").fetchone() == (7,)

    def test_a_foreign_pid_in_postmaster_pid_is_no_server(self, server: EmbeddedPostgres) -> None:
        """After a crash the number may belong to anybody, in a container often to ourselves."""
        server.stop()
        record = server.data_dir / "postmaster.pid"
        record.write_text(f"{os.getpid()}\n{server.data_dir}\n1700000000\n5432\n{server.socket_dir}\n\n")
        server.start()
        assert server.running


class TestOwnerKilled:
    def test_the_guard_stops_the_server(self, folder: Path, owners: Owners) -> None:
        owner = owners.start(f"pg = EmbeddedPostgres(Path({str(folder / 'postgres')!r})); pg.start(); tell(pg)")
        owner.kill()
        assert wait_until(lambda: ended(owner.pids[0]), 10)

    def test_the_next_start_takes_over(self, folder: Path, owners: Owners, stopping: contextlib.ExitStack) -> None:
        """Without guard the old server is still there: it is stopped, since two on one folder would destroy it."""
        postgres = EmbeddedPostgres(folder / "postgres")
        owner = owners.start(f"pg = EmbeddedPostgres(Path({str(postgres.data_dir)!r})); pg.start(); tell(pg)")
        with pytest.raises(FolderInUse):
            postgres.start()
        owner.kill(guards=True)
        assert not ended(owner.pids[0])
        stopping.callback(postgres.kill)
        postgres.start()
        assert ended(owner.pids[0])
        with session(postgres.runtime_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


class TestFolders:
    def test_a_path_too_long_for_a_socket(self, folder: Path, stopping: contextlib.ExitStack) -> None:
        """The socket moves to a short private folder."""
        postgres = EmbeddedPostgres(folder / ("d" * 120) / "postgres")
        stopping.callback(shutil.rmtree, postgres.socket_dir, ignore_errors=True)
        stopping.callback(postgres.kill)
        postgres.start()
        assert postgres.socket_dir != postgres.data_dir
        assert postgres.socket_dir.stat().st_mode & 0o777 == 0o700
        with session(postgres.runtime_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_the_urls_need_no_quoting(self, folder: Path) -> None:
        """Neither in libpq's comma-separated list of hosts nor in Alembic's ini, where percent signs mean something."""
        odd = EmbeddedPostgres(folder / "with space, comma and %41" / "postgres")
        assert not set(odd.superuser_url + odd.runtime_url) & set(" ,%")

    def test_a_socket_folder_of_somebody_else_is_refused(self, folder: Path, stopping: contextlib.ExitStack) -> None:
        postgres = EmbeddedPostgres(folder / ("d" * 120) / "postgres")
        postgres.socket_dir.mkdir(mode=0o755)
        stopping.callback(postgres.socket_dir.rmdir)
        stopping.callback(postgres.kill)
        with pytest.raises(FolderInUse, match="should be private"):
            postgres.start()

    def test_a_private_folder_is_opened_for_passing_through_only(self, server: EmbeddedPostgres) -> None:
        """What `mktemp -d` makes is 0700 and ours; as root the server is another user, who must get in."""
        assert server.data_dir.parent.stat().st_mode & 0o777 == (0o701 if os.geteuid() == 0 else 0o700)

    def test_two_side_by_side(self, server: EmbeddedPostgres, folder: Path, stopping: contextlib.ExitStack) -> None:
        other = EmbeddedPostgres(folder / "postgres")
        stopping.callback(other.kill)
        other.start()
        with session(other.superuser_url) as connection:
            connection.execute("CREATE TABLE only_here ()")
        with session(server.superuser_url) as connection:
            assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_without_root(self) -> None:
        """Somebody without any rights runs it as themselves."""
        code = """
import os, sys, tempfile
from pathlib import Path
import psycopg
from services.stack.postgres import EmbeddedPostgres, _find_binaries
binaries = _find_binaries()
os.umask(0o077); os.setgroups([]); os.setgid(65534); os.setuid(65534)
with tempfile.TemporaryDirectory() as folder:
    postgres = EmbeddedPostgres(Path(folder) / "postgres")
    postgres.start()
    psycopg.connect(postgres.runtime_url.replace("+psycopg", "")).close()
    assert postgres.data_dir.stat().st_uid == 65534
    postgres.stop()
    print("well")
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout == "well\n", done.stderr
