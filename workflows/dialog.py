"""The conversation of one person with one bot: its state is the workflow's, and survives whatever restarts."""

from collections import deque
from datetime import timedelta
from typing import Final
from uuid import UUID

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.publishing.dialog import DialogActivities, TurnInput
    from domain.model import Frozen
    from domain.publishing.dialog import DialogState
    from workflows.options import REPEATABLE

DIALOG_WORKFLOW: Final = "OrderDialog"
_IDLE: Final = timedelta(hours=24)
_MOST_TURNS: Final = 200
_REMEMBERED: Final = 100


def dialog_id(bot_id: UUID, chat_id: int) -> str:
    """One conversation for each chat of each bot."""
    return f"publishing.dialog/{bot_id}/{chat_id}"


class DialogInput(Frozen):
    """Whose conversation it is, and where it stands."""

    tenant_id: UUID
    bot_id: UUID
    chat_id: int
    state: DialogState = DialogState()
    heard: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()


@workflow.defn(name=DIALOG_WORKFLOW)
class DialogWorkflow:
    """Takes updates in the order of their numbers' arrival, one turn each; ends after a day of silence."""

    @workflow.init
    def __init__(self, who: DialogInput) -> None:
        self._who = who
        self._state = who.state
        self._heard = list(who.heard)
        self._answered = deque(who.answered, maxlen=_REMEMBERED)

    @workflow.signal(name="hear")
    def on_hear(self, update_id: int) -> None:
        """A message came in; its number is enough. Told twice, it is heard once, also after it was answered."""
        if update_id not in self._heard and update_id not in self._answered:
            self._heard.append(update_id)

    @workflow.run
    async def run(self, who: DialogInput) -> None:
        """Talk."""
        turns = 0
        while turns < _MOST_TURNS:
            if not self._heard:
                try:
                    await workflow.wait_condition(lambda: bool(self._heard), timeout=_IDLE)
                except TimeoutError:
                    return
            await self._take_turn(self._heard[0])
            self._answered.append(self._heard.pop(0))
            turns += 1
        kept = {"state": self._state, "heard": tuple(self._heard), "answered": tuple(self._answered)}
        workflow.continue_as_new(who.model_copy(update=kept))

    async def _take_turn(self, update_id: int) -> None:
        workflow.set_current_details(f"Waits for: {self._state.step.value}")
        turn = TurnInput(
            tenant_id=self._who.tenant_id, bot_id=self._who.bot_id, chat_id=self._who.chat_id, update_id=update_id,
            state=self._state,
        )  # fmt: skip
        self._state = await workflow.execute_activity_method(
            DialogActivities.take_turn, turn, summary=f"waits for {self._state.step.value}", **REPEATABLE
        )
