"""Which server, who may, what is missing there, and what is never said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgvector_helpers import DIMENSION, NOWHERE, cloud, opened
from psycopg import sql

from inhouse.errors import InhouseError, RecipeError, ResourceError
from inhouse.options import build
from inhouse_pgvector import VARIABLE, Options, upkeep
from inhouse_pgvector.address import resolve
from inhouse_pgvector.store import PgvectorStore

SECRET = "xyzzy-plugh"  # noqa: S105  nobody's


def test_options_refuse_what_the_server_would(tmp_path: Path) -> None:
    for table, why in (
        ({"url": f"postgresql://me:{SECRET}@host/db"}, "holds a password"),
        ({"url": f"host=db password={SECRET}"}, "holds a password"),
        ({"url": f"postgresql://host/db?password={SECRET}"}, "holds a password"),
        ({"url": "host=db\nuser=x"}, "one line"),
        ({"schema": ""}, "1 to 63 bytes"),
        ({"schema": "ü" * 32}, "1 to 63 bytes"),
        ({"schema": "pg_mine"}, "pg_"),
        ({"schema": "%s"}, "without %"),
        ({"m": 40, "ef_construction": 64}, "at least 2 \\* m"),
        ({"ef_search": 1001}, "ef_search"),
        ({"m": 101}, "'m'"),
    ):
        with pytest.raises(RecipeError, match=why) as caught:
            build(Options, table, folder=tmp_path, path="knowledge.pgvector", where=str)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["my secret", f"postgresql://host/db?p%61ssword={SECRET}", "postgresql://[::1/db", "x=1"]
)
def test_a_url_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(url)
    assert "secret" not in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.hint


def test_the_variable_stands_in_for_the_url(url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    store = PgvectorStore(Options(schema=schema))
    assert VARIABLE in str(store.probe())
    with pytest.raises(ResourceError, match="no database is named"):
        store.open(NOWHERE, dimension=DIMENSION, generation=1)
    monkeypatch.setenv(VARIABLE, url)
    assert store.probe() is None
    opened(store).close()


def sealed(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a process that may not use the network."""
    text = "from inhouse.sealed import seal\nfrom inhouse_pgvector.address import resolve\nseal()\n" + textwrap.dedent(
        code
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("url", "env"),
    [
        ("postgresql://192.0.2.1/db", {}),
        ("postgresql://db.example/db", {}),
        ("host=localhost hostaddr=192.0.2.1", {}),
        ("host=/tmp,db.example", {}),
        ("dbname=db", {"PGHOST": "db.example"}),
        ("dbname=db host=/tmp", {"PGHOSTADDR": "192.0.2.1"}),
        ("service=far", {}),
        ("dbname=db", {"PGSERVICE": "far"}),
    ],
)
def test_another_machine_needs_the_recipes_word(url: str, env: dict[str, str], tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.write_text("[far]\nhost=db.example\n")
    made = sealed(f"resolve({url!r})", PGSERVICEFILE=str(services), **env)
    assert made.returncode == 1
    assert "and the recipe allows no network\n  try: --set run.network=true" in made.stderr
    assert ("db.example" in made.stderr) or ("192.0.2.1" in made.stderr)


def test_this_machine_needs_none(url: str, schema: str) -> None:
    code = f"""
        for each in ("host=/tmp", "host=@abstract", "host=localhost", "postgresql://127.0.0.1/db", "host=::1", "dbname=x"):
            resolve(each)
        from pgvector_helpers import *
        from inhouse_pgvector import Options
        store = opened(PgvectorStore(Options(url={url!r}, schema={schema!r})))
        store.add([1], cloud(1))
        print(store.search(cloud(1)[0], 1))
        store.close()
    """
    made = sealed(code)
    assert (made.returncode, made.stdout) == (0, "[(1, 1.0)]\n"), made.stderr


def test_an_unsealed_process_may() -> None:
    assert resolve("postgresql://me@db.example:5433/docs").shown == "postgresql://me@db.example:5433/docs"


@pytest.fixture
def locked(server: Any, raw: Any) -> Any:
    """A user with a password, whom the server asks for it."""
    hba = server.pgdata / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("local all locked scram-sha-256\n" + before)
    raw.execute(f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}'")
    raw.execute("SELECT pg_reload_conf()")
    yield server.get_uri().replace("postgres:@", f"locked:{SECRET}@")
    hba.write_text(before)
    raw.execute("SELECT pg_reload_conf()")
    raw.execute("DROP OWNED BY locked; DROP ROLE locked")


def test_a_password_is_used_and_never_shown(
    locked: str, raw: Any, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    raw.execute("GRANT CREATE ON DATABASE postgres TO locked")
    raw.execute("CREATE EXTENSION IF NOT EXISTS vector")
    options = Options(schema=schema, patience=0.2)
    monkeypatch.setenv(VARIABLE, locked)
    store = opened(PgvectorStore(options))
    store.rebuild([1], cloud(1), generation=1)
    assert store.count() == 1
    store.close()
    wrong = SECRET + "-not"
    for value, why in (
        (locked.replace(SECRET, wrong), "password authentication failed"),
        (locked.replace(f":{SECRET}", ""), "no password supplied"),
        (locked.replace("/postgres", "/nothing"), 'database "nothing" does not exist'),
        (locked.replace("locked:", "nobody:"), 'role "nobody" does not exist'),
    ):
        monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(ResourceError, match=why) as caught:
            PgvectorStore(options).open(NOWHERE, dimension=DIMENSION, generation=1)
        assert caught.value.hint
        said = (
            f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {PgvectorStore(options).probe()} {caplog.text}"
        )
        assert SECRET not in said
        assert why in str(PgvectorStore(options).probe())


@pytest.fixture
def bare(server: Any, raw: Any, schema: str) -> Any:
    """A database of its own, and its URL."""
    raw.execute(f"CREATE DATABASE {schema}_db")
    yield server.get_uri(database=f"{schema}_db")
    raw.execute(f"DROP DATABASE {schema}_db WITH (FORCE)")


def test_a_user_who_may_not_make_the_extension(bare: str, raw: Any, schema: str) -> None:
    raw.execute(f"CREATE ROLE {schema} LOGIN")
    store = PgvectorStore(Options(url=bare.replace("postgres:@", f"{schema}@")))
    with pytest.raises(ResourceError, match="may not make it") as caught:
        opened(store).rebuild([1], cloud(1), generation=1)
    assert "CREATE EXTENSION vector" in str(caught.value.hint)
    with psycopg.connect(bare, autocommit=True) as admin:
        admin.execute("CREATE EXTENSION vector")
        with pytest.raises(ResourceError, match="permission denied for database") as caught:
            store.rebuild([1], cloud(1), generation=1)
        assert "GRANT CREATE" in str(caught.value.hint)
        admin.execute(f"GRANT CREATE ON DATABASE {schema}_db TO {schema}")
        store.rebuild([1], cloud(1), generation=1)
        store.close()
    raw.execute(f"DROP DATABASE {schema}_db WITH (FORCE)")
    raw.execute(f"DROP ROLE {schema}")
    raw.execute(f"CREATE DATABASE {schema}_db")


def test_the_extension_may_lie_in_any_schema(bare: str) -> None:
    with psycopg.connect(bare, autocommit=True) as admin:
        admin.execute('CREATE SCHEMA "Ext ""1"; CREATE EXTENSION vector SCHEMA "Ext ""1"')
    store = opened(PgvectorStore(Options(url=bare)))
    store.add([1], cloud(1))
    assert store.search(cloud(1)[0], 1) == [(1, 1.0)]
    store.close()


def test_an_old_pgvector_is_refused(bare: str) -> None:
    with psycopg.connect(bare, autocommit=True) as admin:
        admin.execute("CREATE EXTENSION vector")
        admin.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    with pytest.raises(ResourceError, match=r"pgvector is 0\.7\.4, and 0\.8 or newer") as caught:
        PgvectorStore(Options(url=bare)).open(NOWHERE, dimension=DIMENSION, generation=1)
    assert "ALTER EXTENSION" in str(caught.value.hint)


def test_a_read_only_server_can_be_searched(bare: str, raw: Any, schema: str) -> None:
    options = Options(url=bare)
    first = opened(PgvectorStore(options))
    first.rebuild([1, 2], cloud(2), generation=1)
    first.close()
    raw.execute(f"ALTER DATABASE {schema}_db SET default_transaction_read_only = on")
    store = PgvectorStore(options)
    assert store.probe() is None
    assert store.open(NOWHERE, dimension=DIMENSION, generation=1)
    assert store.search(cloud(2)[1], 1) == [(2, 1.0)]
    for call in (lambda: store.add([3], cloud(1)), lambda: store.rebuild([3], cloud(1), generation=2)):
        with pytest.raises(ResourceError, match="read-only") as caught:
            call()
        assert "primary" in str(caught.value.hint)
    assert store.count() == 2
    store.close()


def test_newer_tables_are_refused_and_left_alone(make: Any, raw: Any, schema: str) -> None:
    opened(make()).rebuild([1], cloud(1), generation=1)
    raw.execute(f"INSERT INTO {schema}.schema_version (version) VALUES (99)")
    store = make()
    for call in (
        lambda: store.open(NOWHERE, dimension=DIMENSION, generation=1),
        lambda: upkeep.forget(store.options, days=0),
    ):
        with pytest.raises(ResourceError, match="version 99, and this inhouse-pgvector knows 1") as caught:
            call()
        assert "upgrade" in str(caught.value.hint)
    assert "version 99" in str(store.probe())


def test_many_make_the_tables_at_once(bare: str) -> None:
    code = "from pgvector_helpers import *\nfrom inhouse_pgvector import Options\n"
    code += (
        f"s = opened(PgvectorStore(Options(url={bare!r})))\ninput()\ns.add([1], cloud(1))\nprint(s.count())\ns.close()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(run, stdin=pipe, stdout=pipe, text=True, env=env) for _ in range(3)]
    assert [each.communicate("\n")[0] for each in processes] == ["1\n"] * 3


@pytest.mark.parametrize("name", ['a"; DROP SCHEMA public CASCADE; --', "Straße 1", "select", "a.b", "{}", "'x'"])
def test_hostile_names_are_only_names(make: Any, raw: Any, name: str) -> None:
    store = opened(make(schema=name))
    store.rebuild([1], cloud(1), generation=1)
    store.add([2], cloud(1, seed=1))
    store.delete([1])
    store.flush(generation=2)
    assert make(schema=name).open(NOWHERE, dimension=DIMENSION, generation=2)
    (only,) = upkeep.collections(store.options)
    assert (only.generation, only.count) == (2, 1)
    assert raw.execute("SELECT count(*) FROM pg_namespace WHERE nspname IN (%s, 'public')", [name]).fetchone() == (2,)
    store.close()
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def test_old_collections_are_forgotten_unless_in_use(make: Any, raw: Any, schema: str) -> None:
    one, two, three = (opened(make(), generation=g) for g in (1, 2, 3))
    for generation, store in enumerate((one, two, three), 1):
        store.rebuild(range(1, 6), cloud(5), generation=generation)
    listed = upkeep.collections(one.options)
    assert sorted((each.generation, each.count) for each in listed) == [(1, 5), (2, 5), (3, 5)]
    assert all(each.bytes > 0 for each in listed)
    for each in (one, two):
        each.close()
    raw.execute(f"UPDATE {schema}.collections SET used = now() - interval '8 days' WHERE generation IN (1, 3)")
    assert upkeep.forget(one.options, days=7) == [1]
    assert [make().open(NOWHERE, dimension=DIMENSION, generation=g) for g in (1, 2, 3)] == [False, True, True]
    assert three.count() == 5
    nowhere = Options(url=one.options.url, schema="not_there")
    assert (upkeep.collections(nowhere), upkeep.forget(nowhere, days=0)) == ([], [])


def test_all_errors_are_for_the_user(url: str, schema: str) -> None:
    """A statement that takes too long, as an administrator may have set it."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {schema} LOGIN SUPERUSER")
        admin.execute(f"ALTER ROLE {schema} SET statement_timeout = '100ms'")
        store = opened(PgvectorStore(Options(url=url.replace("postgres:@", f"{schema}@"), schema=schema)))
        store.rebuild([1], cloud(1), generation=1)
        with psycopg.connect(url) as blocker:
            blocker.execute(f"LOCK TABLE {schema}.vectors_1")
            with pytest.raises(InhouseError, match="statement timeout") as caught:
                store.count()
            assert "statement_timeout" in str(caught.value.hint)
        store.close()
        admin.execute(f"DROP SCHEMA {schema} CASCADE; DROP ROLE {schema}")


def test_an_index_that_could_not_be_filled_is_not_just_empty(bare: str, raw: Any, schema: str) -> None:
    """A base goes on after a failed rebuild, and must not take silence for an answer."""
    raw.execute(f"ALTER DATABASE {schema}_db SET default_transaction_read_only = on")
    store = opened(PgvectorStore(Options(url=bare)))
    assert store.search(cloud(1)[0], 1) == []
    with pytest.raises(ResourceError, match="read-only"):
        store.rebuild([1], cloud(1), generation=1)
    for call in (lambda: store.search(cloud(1)[0], 1), store.count):
        with pytest.raises(ResourceError, match="read-only"):
            call()
    raw.execute(f"ALTER DATABASE {schema}_db SET default_transaction_read_only = off")
    store.rebuild([1], cloud(1), generation=1)
    assert store.search(cloud(1)[0], 1) == [(1, 1.0)]
    store.close()


def test_says_which_library_is_missing(url: str) -> None:
    code = f"""
        import sys
        sys.modules["psycopg_pool"] = None
        from inhouse_pgvector import Options
        from inhouse_pgvector.store import PgvectorStore
        print(PgvectorStore(Options(url={url!r})).probe())
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, env=env
    )
    assert "psycopg_pool" in made.stdout
    assert "pip install" in made.stdout
