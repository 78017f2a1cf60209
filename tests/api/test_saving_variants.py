"""The variants that benchmarks/saving.py measures against: they have to be the API with another way of writing."""

from api.app import create_app
from benchmarks.saving_variants import change
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import problem_of
from tests.support.saving import message


async def test_what_writes_nothing_acknowledges_all_the_same(
    make_settings: MakeSettings, make_front: MakeFront
) -> None:
    """The answer is the one that a record gets, and of its batch nothing is there."""
    app = create_app(make_settings())
    change(app, "nothing")
    async with running(app):
        front = await make_front(on=app)
        answer = await front.http.post("/records/messages", json=message())
        assert answer.status_code == 202, answer.text
        assert (answer.json()["received"], answer.json()["accepted"]) == (1, 1)
        problem_of(await front.http.get(answer.json()["batch_url"]), 404, "E.NOT_FOUND")
