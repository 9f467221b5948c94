"""Where a study lies: a SQLite file, or a database that several machines share."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from inhouse.errors import RecipeError, ResourceError

BUSY_SECONDS = 60
"""How long SQLite waits for another process that writes."""
WHERE = "--storage"


def storage_url(text: str, *, network: bool) -> str:
    """The database's URL from a file's path or a URL.

    Raises ``RecipeError`` for a URL that is none, or of another machine while the recipe allows no network,
    and ``ResourceError`` for a file that has no folder to lie in.
    """
    if "://" not in text:
        path = Path(text).absolute()
        if not path.parent.is_dir() or path.is_dir():
            raise ResourceError("is no place for a file", where=str(path), hint=f"{WHERE} FILE.db")
        return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    try:
        url = make_url(text)
        url.get_dialect()
    except (SQLAlchemyError, ValueError) as error:
        raise RecipeError(
            f"is no database's URL: {error}", where=WHERE, hint="a file's path, or postgresql+psycopg://HOST/NAME"
        ) from error
    if not network and not _local(url):
        raise RecipeError(
            "this database is on the network, and the recipe allows none",
            where=f"{WHERE} {shown(text)}",
            hint="--set run.network=true",
        )
    return text


def shown(url: str) -> str:
    """The URL without its password; a SQLite file's path."""
    made = make_url(url)
    if made.get_backend_name() == "sqlite" and made.database:
        return made.database
    return made.render_as_string(hide_password=True)


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """Optuna's storage over the database; what fails in it is a ``ResourceError`` that names the place."""
    place = shown(url)
    lite = make_url(url).get_backend_name() == "sqlite"
    try:
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}} if lite else None)
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        raise _unusable(error, place) from error
    except ImportError as error:
        raise ResourceError(
            f"the database's driver is missing: {error}", where=place, hint="pip install 'inhouse-tune[postgresql]'"
        ) from error
    try:
        yield storage
    except (SQLAlchemyError, OptunaError) as error:
        raise _unusable(error, place) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _unusable(error: Exception, place: str) -> ResourceError:
    said = str(getattr(error, "orig", None) or error).partition("\n")[0]
    return ResourceError(
        f"the study cannot be kept here: {said}", where=place, hint=f"{WHERE} with another file or URL"
    )


def _local(url: URL) -> bool:
    hosts = [url.host, *([asked] if isinstance(asked := url.query.get("host"), str) else asked or ())]
    return all(_is_here(each) for each in hosts if each)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
