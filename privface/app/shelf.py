"""What the server holds for its users: in memory, by secret names, for a while."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from privface.app.uploads import File, UploadError, megabytes

Owner: TypeAlias = tuple[str, str]
"""A session, and what of it the item is for."""


@dataclass
class _Place:
    item: File
    until: float
    owner: Owner | None


class Shelf:
    """Holds items under names that cannot be guessed, up to ``capacity`` bytes, each for ``seconds`` after its last use.

    Safe to use from several threads.
    """

    def __init__(self, *, capacity: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._seconds, self._clock = capacity, seconds, clock
        self._places: dict[str, _Place] = {}
        self._lock = threading.RLock()  # its methods call one another

    @property
    def size(self) -> int:
        """Bytes held."""
        with self._lock:
            return sum(len(place.item.data) for place in self._places.values())

    def put(self, *items: File, owner: Owner | None = None) -> list[str]:
        """Hold items, all or none of them; nobody else's is pushed out for them. Gives names of 128 random bits, in hexadecimal.

        Raises:
            UploadError: If there is no room for them.
        """
        more = sum(len(item.data) for item in items)
        with self._lock:
            self.forget_old()
            if self.size + more > self._capacity:
                raise UploadError(
                    f"The server holds {megabytes(self.size)} for its users; with these {megabytes(more)} "
                    f"it would pass its limit of {megabytes(self._capacity)}.",
                    hint="Clear what you no longer need, or try again in a few minutes.",
                )
            until = self._clock() + self._seconds
            places = {secrets.token_hex(16): _Place(item, until, owner) for item in items}
            self._places |= places
        return list(places)

    def get(self, token: str, *, owner: Owner | None = None) -> File | None:
        """An item by its name, its time started anew, and from now on its owner's; ``None`` where it is gone."""
        with self._lock:
            self.forget_old()
            place = self._places.get(token)
            if place is None:
                return None
            place.until = self._clock() + self._seconds
            place.owner = owner or place.owner
            return place.item

    def drop(self, session: str, part: str | None = None) -> None:
        """Let everything of a session go, or what is for one part of it."""

        def leaves(owner: Owner | None) -> bool:
            return owner is not None and owner[0] == session and part in {None, owner[1]}

        with self._lock:
            self._places = {t: place for t, place in self._places.items() if not leaves(place.owner)}

    def forget_old(self) -> None:
        """Let go what nobody has used for its time."""
        with self._lock:
            now = self._clock()
            self._places = {t: place for t, place in self._places.items() if place.until > now}
