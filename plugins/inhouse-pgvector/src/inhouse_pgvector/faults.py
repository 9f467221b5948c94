"""What goes wrong with a server: what passes by itself, how long it is waited for, and what the user is told."""

from __future__ import annotations

import logging
import re
import time

import psycopg

from inhouse.errors import ResourceError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries
OUTAGES = 5
"""So often may a server come back and go again within one call."""

PASSING = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "23505",  # two name the same collection at once
    "53300",  # too many connections
    "57P01",  # shutting down
    "57P02",  # another of its processes crashed
    "57P03",  # starting up
}
REASONS = {
    "25006": "the server is read-only: name its primary in the url",
    "42501": "GRANT CREATE ON DATABASE and USAGE on the schema to this user, or name another user in the url",
    "53100": "free some space on the server's disk",
    "53200": "give the server more memory",
    "57014": "raise statement_timeout for this user",
}
REFUSED = {
    r"password authentication failed|no password supplied|empty password": "PGPASSWORD=..., or a line in ~/.pgpass",
    r'database ".*" does not exist': "createdb it, or name another database in the url",
    r'role ".*" does not exist|not permitted to log in|permission denied for database': "name another user in the url",
    r"no pg_hba.conf entry|authentication failed": "let this user and machine in, in the server's pg_hba.conf",
    r"certificate|SSL": "check sslmode and the certificates in the url",
}
"""What a server says when it refuses a connection (libpq tells no code then), and what to do."""


class Patience:
    """Decides after each failure of one call whether to try again; ``place`` names the server in errors."""

    def __init__(self, place: str, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._outages = 0
        self._last = self._until = float("-inf")
        self._pause = FIRST_PAUSE

    def bear(self, error: psycopg.Error) -> None:
        """Returns after a pause when it is worth another try. Raises ``ResourceError`` otherwise."""
        if _ours(error):
            raise error
        if not passes(error):
            raise explained(error, self._place) from error
        now = time.monotonic()
        if now - self._last > max(self._seconds, 15):  # it worked for a while
            self._outages += 1
            self._until, self._pause = now + self._seconds, FIRST_PAUSE
            log = logging.getLogger(__name__)
            log.warning("%s: %s; waiting up to %g s", self._place, first_line(error), self._seconds)
        self._last = now
        if self._outages > OUTAGES or now + self._pause > self._until:
            raise lost(error, self._place, self._seconds) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def passes(error: psycopg.Error) -> bool:
    """Whether the same call may succeed a little later."""
    state = error.sqlstate
    if state is not None:
        return state in PASSING or state.startswith("08")
    unreachable = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return unreachable and _refusal(error) is None


def explained(error: psycopg.Error, place: str) -> ResourceError:
    """The error for what waiting does not mend."""
    hint = REASONS.get(error.sqlstate or "") or _refusal(error)
    return ResourceError(f"the database refuses: {first_line(error)}", where=place, hint=hint)


def lost(error: psycopg.Error, place: str, seconds: float) -> ResourceError:
    """The error for a server that did not come back."""
    return ResourceError(
        f"the database cannot be reached (waited {seconds:g} s): {first_line(error)}",
        where=place,
        hint="start it, or check the url; then try again: nothing is lost, and nothing is there twice",
    )


def first_line(error: BaseException) -> str:
    """What the server said, in one line. psycopg and libpq put no password in it."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def _ours(error: psycopg.Error) -> bool:
    """Whether the SQL is wrong, or a table is gone: not the server's doing."""
    if error.sqlstate is None:
        return not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return error.sqlstate.startswith("42") and error.sqlstate not in REASONS


def _refusal(error: psycopg.Error) -> str | None:
    return next((hint for said, hint in REFUSED.items() if re.search(said, str(error))), None)
