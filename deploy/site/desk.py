"""The steward's review desk: what is shown, what is excluded, and what each button does; `desk_pages` serves it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moretta.client.offers import Decision, Offer, Offers
from moretta.deploy.site.desk_media import ClipMedia
from moretta.deploy.site.review import Review
from moretta.deploy.site.review_choice import Choice, people_of
from moretta.deploy.site.review_cost import Costs, costs
from moretta.shared.study.public_arrays import arrays_digest

CLIPS_OF_A_PAGE = 20
_LAST_SECONDS = 5.0
"""How long the desk stays after the decision, for the page that says so."""


@dataclass
class Desk:
    """One review, until the decision."""

    offer: Offer
    facts: dict[str, Any]
    """Facts of the offer, by `offer_facts`."""
    review: Review
    choice: Choice
    scratch: Path
    """A folder for sounds, inside the site's."""
    decision: Decision | None = None
    page: int = 0
    order: Literal["risk", "person"] = "risk"
    note: str = ""
    """Message that the next page shows: the result of the last button."""
    at_end: Callable[[], None] = lambda: None
    media: ClipMedia = field(init=False)
    _costs: tuple[str, Costs] | None = None

    def __post_init__(self) -> None:
        self.media = ClipMedia(self.review, self.scratch)

    @property
    def costs(self) -> Costs:
        """Costs of the clips that are included now."""
        if self._costs is None or self._costs[0] != self.chosen:
            self._costs = (self.chosen, costs(self.choice.settings, self.review, self.choice.included))
        return self._costs[1]

    @property
    def ordered(self) -> list[int]:
        """Numbers of all clips as they are shown: the riskiest first, or by person."""
        rows, numbers = self.choice.rows, range(len(self.choice.rows))
        if self.order == "person":
            return list(numbers)
        return sorted(numbers, key=lambda n: (-math.inf if rows[n].risk is None else -float(rows[n].risk or 0), n))

    @property
    def pages(self) -> int:
        """How many pages of clips there are."""
        return max(1, math.ceil(len(self.choice.rows) / CLIPS_OF_A_PAGE))

    @property
    def shown(self) -> list[int]:
        """Numbers of the clips on this page."""
        return self.ordered[self.page * CLIPS_OF_A_PAGE : (self.page + 1) * CLIPS_OF_A_PAGE]

    @property
    def chosen(self) -> str:
        """Digest of what is excluded now: what was confirmed is what is approved."""
        return arrays_digest({"excluded": sorted(self.choice.excluded)})

    def keep(self, fields: dict[str, list[str]]) -> None:
        """Take over the ticks of the clips that the form showed."""
        rows, ticked = self.choice.rows, set(fields.get("exclude", []))
        for number in fields.get("shown", []):
            if number.isdecimal() and int(number) < len(rows):
                name = rows[int(number)].clip.name
                (self.choice.excluded.add if number in ticked else self.choice.excluded.discard)(name)

    def act(self, button: str, fields: dict[str, list[str]]) -> str:
        """Do what a button says; returns the page to show, at its place. Raises MorettaError for an impossible rule."""
        action, _, what = button.partition(":")
        if action in ("exclude", "include"):
            names: set[str] = set()
            if what == "rule" and (value := fields.get("value", [""])[0].strip()):
                names = self.choice.matching(f"{fields.get('key', [''])[0]}{value}")
            elif what.isdecimal():
                people = list(people_of(self.choice.rows).values())
                names = {row.clip.name for row in people[int(what)]} if int(what) < len(people) else set()
            before = len(self.choice.excluded)
            self.choice.excluded = self.choice.excluded | names if action == "exclude" else self.choice.excluded - names
            changed = abs(len(self.choice.excluded) - before)
            self.note = f"{changed} clips {action}d." if names else "Your ticks are kept."
            return ".#rules" if what == "rule" else ".#people"
        if action == "page" and what.isdecimal():
            self.page = min(int(what), self.pages - 1)
            return ".#clips"
        if action == "order":
            self.order, self.page = ("person" if what == "person" else "risk"), 0
            return ".#clips"
        if action == "confirm":
            self.choice.check(self.offer)
            return "confirm"
        self.note = "Your ticks are kept."
        return "confirm?refuse=1" if action == "refuse" else "."

    def decide(self, decision: str, chosen: str) -> None:
        """Approve what is included, or refuse the study. `chosen`: what `chosen` was on the page that was confirmed."""
        if decision == "approve" and chosen != self.chosen:
            self.note = "The choice was changed meanwhile. Nothing was approved: look again."
        elif decision == "approve":
            self.decision = self.choice.approve(self.offer)
        elif decision == "refuse":
            self.decision = Offers(self.choice.settings.home).decide(self.offer, "refused", "steward")
        if self.decision is not None:
            threading.Timer(_LAST_SECONDS, self.at_end).start()
