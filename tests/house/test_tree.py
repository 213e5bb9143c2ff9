"""The map is the tree, the locks are the dependencies, and nothing in the text names a machine."""

import re
import tomllib

# Taken apart, so that this file does not name what it looks for.
REGISTRIES = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io"),
        ("golang", "org"), ("maven", "apache", "org"), ("maven", "org"), ("deb", "debian", "org"),
    ]
]  # fmt: skip
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:work|root|home|tmp)/\w")


def test_the_map_in_architecture_is_the_tree(house):
    """Every source file has one line that says what it is, and every line has its file."""
    mapped = map_lines(house.text("ARCHITECTURE.md"))
    tree = {
        path
        for path in house.files
        if path.startswith(("hofflight/", "benchmarks/")) and path.endswith((".py", ".proto"))
    }
    rooms = {f"{path.rsplit('/', 1)[0]}/" for path in tree}

    assert sorted(tree - set(mapped)) == [], "not on the map"
    assert sorted(set(mapped) - tree - rooms) == [], "on the map only"
    assert len(mapped) == len(set(mapped)), "twice on the map"


def map_lines(page):
    section = page.split("\n## The map\n", 1)[1]
    block = section.split("```", 2)[1].split("\n", 1)[1]
    lines = [line for line in block.splitlines() if line.strip()]
    assert all(re.match(r"\S+\s+— \S", line) for line in lines), "a line is `path  — what it is`"
    return [line.split()[0] for line in lines]


def test_no_text_names_a_machine_or_a_registry(house):
    """What is true on one machine is wrong on the next."""
    offenders = []
    for path in house.files:
        try:
            text = house.text(path)
        except UnicodeDecodeError:  # not text
            continue
        hosts = [host for host in REGISTRIES if host in text]
        offenders += [f"{path}: {found}" for found in hosts + MACHINE_PATH.findall(text)]

    assert offenders == []


def test_every_dependency_and_extra_is_locked(house):
    """`make lock` was run: what pyproject.toml asks for has a version and hashes."""
    project = tomllib.loads(house.text("pyproject.toml"))["project"]
    wanted = {"core": project["dependencies"], **project["optional-dependencies"]}
    every_pin = pins(house.text("requirements/all.lock"))

    for name, requirements in wanted.items():
        locked = pins(house.text(f"requirements/{name}.lock"))
        missing = {normal_name(requirement) for requirement in requirements} - {
            pin.split("==")[0] for pin in locked
        }
        assert missing == set(), f"{name}.lock is old: make lock"
        assert locked <= every_pin, f"{name}.lock and all.lock disagree: make lock"


def pins(lock):
    return set(re.findall(r"^([a-z0-9.-]+==\S+)", lock, flags=re.MULTILINE))


def normal_name(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
