"""A registry whose server goes away, comes back, is none of ours, or lets nobody in."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.assemble_registry import open_registry
from hofflight.errors import ReadOnly, RegistryUnavailable, SettingsError, StoreFormat
from hofflight.features.database import FORMAT
from hofflight.features.postgres import PostgresDatabase
from hofflight.features.registry import Registry
from hofflight.testing.postgres import postgres_server

REPO = Path(__file__).parents[2]
TTL_US = 600_000_000


@pytest.fixture(scope="module")
def postgres():
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def opened():
    """Opens registries, and closes them in the end."""
    made = []

    def open_at(url, **options):
        made.append(Registry(PostgresDatabase(url, **options)))
        return made[-1]

    yield open_at
    for registry in made:
        registry.close()


def group(version=1, name="g"):
    return hof.feature_group(
        name, version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP},
        windows={"n": hof.count().over("10m")},
    )  # fmt: skip


def save(registry, version, name="g"):
    return registry.save_group(group(version, name), module="m", created_us=1)


def database_of(url):
    return url.rpartition("/")[2]


# --- it goes and comes back ---


def test_after_a_restart_of_the_server_the_next_call_works(postgres, url, opened):
    """Reading, keeping, leasing: each is the first call that meets the broken connection."""
    registry = opened(url)
    leases = registry.leases()
    save(registry, 1)
    for restart in (postgres.restart, lambda: (postgres.kill(), postgres.restart())):
        known = len(registry.groups())
        restart()
        assert len(registry.groups()) == known
        restart()
        assert save(registry, known + 1).version == known + 1
        restart()
        assert leases.acquire(["a", "b", "c"], "i", known, TTL_US)
        restart()
        assert leases.renew("a", 1, TTL_US)


def test_while_the_server_is_away_every_call_says_so_at_once(postgres, url, opened):
    """And goes on by itself when it is back."""
    registry = opened(url)
    leases = registry.leases()
    save(registry, 1)
    postgres.stop()
    start = time.monotonic()
    for attempt in (
        registry.groups,
        lambda: save(registry, 2),
        lambda: leases.acquire(["a"], "i", 1, TTL_US),
        lambda: leases.renew("a", 1, TTL_US),
        lambda: opened(url),
    ):
        with pytest.raises(RegistryUnavailable, match=r"HOF-515.*refused"):
            attempt()
    assert time.monotonic() - start < 5
    postgres.restart()

    assert [g.version for g in registry.groups()] == [1]
    assert save(registry, 2).version == 2


def test_a_connection_that_breaks_inside_a_registration_leaves_nothing_of_it(postgres, url, opened):
    """Half of it is not tried again on another connection: that would be the other half alone."""
    registry = opened(url)

    def broken():
        with registry.writing():
            save(registry, 1, "a")
            postgres.restart()
            save(registry, 1, "b")

    with pytest.raises(RegistryUnavailable, match="HOF-515"):
        broken()

    assert registry.groups() == []
    assert save(registry, 1, "b").name == "b"


def test_a_writer_whose_machine_is_gone_keeps_nobody_out(postgres, url, opened):
    """Its transaction ends with its connection."""
    gone, other = opened(url), opened(url)
    is_ours = f"datname = '{database_of(url)}' AND state = 'idle in transaction'"

    def cut():
        with gone.writing():
            save(gone, 1, "a")
            postgres.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {is_ours}")
            assert save(other, 1, "b").name == "b"

    with pytest.raises(RegistryUnavailable, match="HOF-515"):
        cut()
    assert [g.name for g in other.groups()] == ["b"]


def test_a_server_that_does_not_answer_is_given_up(opened):
    """A host that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(RegistryUnavailable, match=r"HOF-515.*timeout"):
            opened(f"postgresql://hof@127.0.0.1:{port}/x?connect_timeout=1")


# --- it is none of ours ---


@pytest.mark.parametrize("statement", [
    "CREATE TABLE hofflight.orders (id int)",
    "CREATE TABLE hofflight.groups (id int)",
    "CREATE TABLE hofflight.format (number int)",
])  # fmt: skip
def test_a_schema_that_holds_something_else_is_refused_and_left_alone(
    postgres, url, opened, statement
):
    """It has our name, and is not ours."""
    database = database_of(url)
    postgres.ask("CREATE SCHEMA hofflight", database)
    postgres.ask(statement, database)

    for read_only in (False, True):
        with pytest.raises(StoreFormat, match=r"HOF-503.*something else"):
            opened(url, read_only=read_only)
    tables = postgres.ask("SELECT count(*) FROM pg_tables WHERE schemaname='hofflight'", database)
    assert tables == [(1,)]


def test_what_else_the_database_holds_is_no_matter(postgres, url, opened):
    """Our tables have a schema of their own, which an administrator may have made before."""
    for statement in ("CREATE TABLE groups (id int)", "CREATE SCHEMA hofflight"):
        postgres.ask(statement, database_of(url))
    save(opened(url), 1)

    assert opened(url, read_only=True).group("g").version == 1
    assert postgres.ask("SELECT * FROM public.groups", database_of(url)) == []


def test_a_newer_format_is_refused(postgres, url, opened):
    """An older release must not guess at what a newer one wrote."""
    opened(url)
    postgres.ask(f"UPDATE hofflight.format SET number = {FORMAT + 1}", database_of(url))

    for read_only in (False, True):
        with pytest.raises(StoreFormat, match=rf"HOF-503.*format {FORMAT + 1}.*upgrade"):
            opened(url, read_only=read_only)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres, opened):
    """Source text is kept to the letter."""
    url = postgres.new_database("ENCODING 'LATIN1'")

    with pytest.raises(StoreFormat, match=r"HOF-503.*LATIN1.*UTF8"):
        opened(url)


def test_names_come_in_the_order_of_their_bytes_in_any_language(postgres, opened):
    """A language's own order puts `_` before digits and decides what `newest` would mean."""
    url = postgres.new_database("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    names = ["a1", "a_", "a", "aa"]
    registry = opened(url)
    for name in names:
        save(registry, 1, name)

    assert [g.name for g in registry.groups()] == sorted(names)


def test_an_empty_database_is_an_empty_registry_to_a_reader(postgres, url, opened):
    """Looking makes nothing."""
    registry = opened(url, read_only=True)

    assert (registry.groups(), registry.views(), registry.leases().held()) == ([], [], [])
    assert registry.plan_group(group()).state == "created"
    with pytest.raises(ReadOnly):
        save(registry, 1)
    found = postgres.ask("SELECT to_regnamespace('hofflight')", database_of(url))
    assert found == [(None,)]


def test_a_user_who_may_only_read_reads(postgres, url, opened):
    """`hof describe` needs no more."""
    save(opened(url), 1)
    database, password = database_of(url), "look"
    for statement in (
        f"CREATE USER reader PASSWORD '{password}'",
        "GRANT USAGE ON SCHEMA hofflight TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA hofflight TO reader",
    ):
        postgres.ask(statement, database)
    theirs = f"postgresql://reader:{password}@127.0.0.1:{postgres.port}/{database}"

    assert opened(theirs, read_only=True).group("g").version == 1
    with pytest.raises(RegistryUnavailable, match=r"HOF-515.*permission denied"):
        save(opened(theirs), 2)


# --- it lets nobody in ---


SECRET = "s3cr3t-w0rd"


def everything_said(error):
    return "".join(traceback.format_exception(error)) + repr(error)


def test_a_wrong_password_is_refused_and_never_said(postgres, opened):
    """Neither in the error nor in what led to it."""
    url = f"postgresql://hof:{SECRET}@127.0.0.1:{postgres.port}/postgres"

    with pytest.raises(RegistryUnavailable, match=r"HOF-515.*password authentication failed") as e:
        opened(url)

    assert SECRET not in everything_said(e.value)


@pytest.mark.parametrize("form", [
    "postgresql://hof:{}%zz@127.0.0.1/x",
    "postgresql://hof:{}@[127.0.0.1/x",
    "postgresql://hof@127.0.0.1/x?password={}&nonsense=1",
    "postgresql://hof:{}",
    "postgresql://hof:{}/x",
])  # fmt: skip
def test_an_address_that_is_none_is_refused_without_a_word_of_it(opened, form):
    """What is wrong may be the password."""
    with pytest.raises(SettingsError) as caught:
        opened(form.format(SECRET))

    assert SECRET not in everything_said(caught.value)


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_command_line_never_says_a_password(postgres, tmp_path, debug):
    """Nor does a traceback."""
    right = postgres.url()
    wrong = right.replace(postgres.password, SECRET)
    unescaped = right.replace(postgres.password, f"{SECRET}@{SECRET}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HOF_")}
    for address, code in ((wrong, "HOF-515"), (unescaped, "HOF-601")):
        said = subprocess.run(
            [sys.executable, "-m", "hofflight.cli.main", "history"],
            env={**kept, "PYTHONPATH": str(REPO), "HOF_DEBUG": debug, "HOF_REGISTRY__URL": address},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode
        assert code in said.stderr
        assert SECRET not in said.stderr + said.stdout


def test_without_its_extra_it_says_what_to_install(monkeypatch, url):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "hofflight.features.postgres")

    with pytest.raises(SettingsError, match=r"HOF-601.*postgres.*pip install"):
        open_registry(hof.load_settings(registry={"url": url}))


# --- the test server itself ---


def test_a_server_for_tests_ends_with_the_process_that_started_it():
    """Killed without a word, that process leaves neither a server nor files."""
    program = (
        "import sys; from hofflight.testing.postgres import postgres_server\n"
        "with postgres_server() as server:\n"
        "    print(server.process.pid, server.folder, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        readable, _, _ = select.select([process.stdout], [], [], 60)
        assert readable
        pid, folder = process.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while time.monotonic() < end and (Path(f"/proc/{pid}").exists() or Path(folder).exists()):
        time.sleep(0.05)

    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).exists()


def test_a_sqlite_registry_that_somebody_holds_is_waited_for(tmp_path):
    """Two deployments at one moment come one after the other."""
    address = hof.load_settings(registry={"url": f"sqlite:///{tmp_path}/r.sqlite"})
    program = (
        "import sys, time; import hofflight as hof\n"
        "from hofflight.assemble_registry import open_registry\n"
        "registry = open_registry(hof.load_settings(registry={'url': sys.argv[1]}))\n"
        "with registry.writing():\n"
        "    print('inside', flush=True); time.sleep(0.5)\n"
        "    print(time.monotonic(), flush=True)\n"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program, address.registry.url], cwd=REPO,
                         stdout=subprocess.PIPE, text=True) as holder,
        closing(open_registry(address)) as registry,
    ):  # fmt: skip
        assert holder.stdout.readline() == "inside\n"
        assert registry.groups() == []  # a reader does not wait
        save(registry, 1)
        done = time.monotonic()
        assert done > float(holder.stdout.readline())
