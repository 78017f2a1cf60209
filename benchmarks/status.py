"""``GET /jobs/{id}`` against a bare FastAPI route that does one SELECT by primary key through a pool like ours."""

import statistics
from typing import Any, Final

import orjson

from benchmarks import wire
from benchmarks.support import Bench, Finding, Load, cpu_seconds, load_process, median_ratio, running
from services.stack.ports import free_port

_CONNECTIONS: Final = (1, 20)


async def run(bench: Bench) -> list[Finding]:
    """Both sides and the unchanged ETag by turns, with one connection and with many."""
    rounds, seconds = (5, 0.3) if bench.quick else (31, 0.5)
    job = await _finished_job(bench)
    port = free_port()
    bare = bench.child("bare-api", "-m", "benchmarks.bare_api", str(port), bench.stack.postgres.superuser_url)
    async with running(bare), load_process() as load:
        measured = _Reads(bench, load, bare, port, job)
        await bench.stack.eventually(measured.is_up)
        findings = []
        for connections in _CONNECTIONS:
            await measured.all_sides(connections, seconds=1.0)
            measured.forget()
            for _ in range(rounds):
                await measured.all_sides(connections, seconds=seconds)
            measured.report(connections)
            findings += measured.findings(connections)
            measured.forget()
        return findings


async def _finished_job(bench: Bench) -> dict[str, Any]:
    started = await bench.stack.post("diagnostics.noop", {})
    await bench.stack.until_done(started["id"])
    answer = await bench.stack.http.get(f"/jobs/{started['id']}")
    return {"id": started["id"], "etag": answer.headers["etag"]}


class _Reads:
    """Reads of one job through the API, through the bare route, and with an ETag that still holds."""

    def __init__(self, bench: Bench, load: Load, bare: Any, bare_port: int, job: dict[str, Any]) -> None:
        self._bench = bench
        self._load = load
        self._bare = bare
        self._bare_port = bare_port
        self._job = job
        self._rates: dict[str, list[float]] = {}
        self._used: dict[str, tuple[float, int]] = {}
        self._client_share: list[float] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._rates = {"ours": [], "bare": [], "unchanged": []}
        self._used = dict.fromkeys(self._rates, (0.0, 0))
        self._client_share = []

    async def is_up(self) -> bool:
        """Whether the bare route answers, and with the same job."""
        try:
            connection = await wire.connect(self._bare_port)
            answer = await connection.ask(wire.request("GET", f"/jobs/{self._job['id']}"))
        except OSError:
            return False
        connection.close()
        return answer.status == 200 and orjson.loads(answer.body)["id"] == self._job["id"]

    async def all_sides(self, connections: int, *, seconds: float) -> None:
        """One round; the order turns with each."""
        names = list(self._rates)
        turn = len(self._rates["ours"]) % len(names)
        for name in names[turn:] + names[:turn]:
            await self._side(name, connections, seconds)

    async def _side(self, name: str, connections: int, seconds: float) -> None:
        job = self._job["id"]
        task: dict[str, Any] = {"port": self._bench.port, "key": self._bench.key, "path": f"/api/v1/jobs/{job}"}
        if name == "bare":
            task = {"port": self._bare_port, "key": "", "path": f"/jobs/{job}"}
        task |= {"etag": self._job["etag"], "expect": 304} if name == "unchanged" else {"etag": "", "expect": 200}
        process = self._bare if name == "bare" else self._bench.stack.api
        before = cpu_seconds(process)
        done = await self._load.perform("get", connections=connections, seconds=seconds, **task)
        self._rates[name].append(done["count"] / done["seconds"])
        seconds_so_far, requests = self._used[name]
        self._used[name] = (seconds_so_far + cpu_seconds(process) - before, requests + done["count"])
        self._client_share.append(done["cpu"] / done["seconds"])

    def report(self, connections: int) -> None:
        """A line of progress."""
        said = ", ".join(f"{name} {statistics.median(rates):.0f}/s" for name, rates in self._rates.items())
        self._bench.say(f"{connections} connections: {said}")

    def findings(self, connections: int) -> list[Finding]:
        """The numbers."""
        ours, bare, unchanged = (self._rates[name] for name in ("ours", "bare", "unchanged"))
        middle = statistics.median
        at = f"{connections} connection{'s' if connections > 1 else ''}"
        cpu = {name: 1e6 * used / requests for name, (used, requests) in self._used.items()}
        return [
            Finding(
                f"rate of the bare route's, {at}", median_ratio(ours, bare), "x", at_least=0.6,
                note=f"{middle(ours):.0f}/s against {middle(bare):.0f}/s",
            ),
            Finding(
                f"rate with an unchanged ETag of the full answer's, {at}", median_ratio(unchanged, ours), "x",
                at_least=1.0, note=f"{middle(unchanged):.0f}/s",
            ),
            Finding(
                f"CPU of the bare route's for one answer, {at}", cpu["ours"] / cpu["bare"], "x",
                note=", ".join(f"{name} {microseconds:.0f} us" for name, microseconds in cpu.items()),
            ),
            Finding(f"processor share of the load generator, {at}", middle(self._client_share), "cores"),
        ]  # fmt: skip
