#!/usr/bin/env python3
"""Guards: rules of the house that a compiler does not check. `guard.py NAME` runs one, `guard.py` all of the source.

floors      a module includes only headers of lower floors; analyses never include each other
calls       MPI only in comm, HDF5 only in store, ScaLAPACK only in linalg, memory and printing through base
sizes       no file above 1000 lines, no function above 120, few above 60
columns     no line of C above 100 columns
prototypes  every public function has a comment and at most eight parameters, few more than six
headers     every public header compiles alone
paths       no path of the machine it was written on
scripts     shell and Python scripts parse
help        every option has a help text and shows in `darkfield help STAGE` (needs DARKFIELD)
jobs        every job file in the tree passes --dry-run (needs DARKFIELD)
presets     every preset of `train` resolves, gives way to explicit keys, and a wrong name gets the nearest (needs DARKFIELD)

Prints one line per finding, FILE:LINE: what; exit code 1 when there are any.
"""
import ast
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLOORS = {"base": 0, "comm": 1, "kernels": 1, "linalg": 2, "store": 2, "model": 3, "dict": 3, "moments": 3,
          "eval": 4, "stats": 4, "diff": 4, "spectrum": 4, "lens": 4}
ANALYSES = [module for module, floor in FLOORS.items() if floor == 4]
# Public headers that are not called like their module.
HEADER_OF = {"exchange": "dict", "groups": "dict", "rows": "dict", "splice": "dict", "train": "dict",
              "tokenizer": "model", "hooks": "model", "placement": "model", "line": "comm",
              "evaluate": "eval", "loss": "eval"}


def files(*patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def sources():
    return files("src/*/*.c", "src/*/*.h", "include/darkfield/*.h", "jobs/*.c", "jobs/*.h")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "src":
        return parts[1]
    if parts[0] == "include":
        return HEADER_OF.get(path.stem, path.stem)
    return "jobs"


def code_of(path, keep_strings=False):
    """The text with comments (and strings) blanked, line numbers kept."""
    def blank(match):
        text = match.group(0)
        if text[0] in "\"'":
            return text if keep_strings else '""'
        return "\n" * text.count("\n")
    pattern = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, blank, path.read_text(), flags=re.S)


def matches(path, pattern, **options):
    text = code_of(path, **options)
    for match in re.finditer(pattern, text):
        yield text.count("\n", 0, match.start()) + 1, match


# ---- floors and calls ----------------------------------------------------------------------------

def floors():
    for path in files("src/*/*.c", "src/*/*.h", "include/darkfield/*.h"):
        module = module_of(path)
        if module not in FLOORS:
            yield f"{name_of(path)}:1: belongs to no module of the floor table (add it to {name_of(pathlib.Path(__file__))})"
            continue
        for line, match in matches(path, r'#include "(?:darkfield/)?([\w./]+)\.h"', keep_strings=True):
            public = "darkfield/" in match.group(0)
            used = HEADER_OF.get(match.group(1), match.group(1)) if public else module
            if "/" in match.group(1):
                yield f"{name_of(path)}:{line}: includes another folder's private header {match.group(1)}.h"
            elif used not in FLOORS:
                yield f"{name_of(path)}:{line}: darkfield/{match.group(1)}.h belongs to no module of the floor table"
            elif used != module and FLOORS[used] >= FLOORS[module]:
                yield f"{name_of(path)}:{line}: {module} (floor {FLOORS[module]}) includes {used} (floor {FLOORS[used]})"


RULES = [  # what, pattern, modules that may
    ("MPI", r"\bMPI_\w+|<mpi\.h>", {"comm"}),
    ("HDF5", r"\bH5[A-Z]{1,2}[a-z]?\w*\s*\(|<hdf5\w*\.h>", {"store"}),
    ("ScaLAPACK", r"\bp[sdcz][a-z]{3,}_\s*\(|\bC?blacs_\w+|\bCsys2blacs\w*|\b(?:descinit|numroc)_\s*\(", {"linalg"}),
    ("the allocator", r"(?<![\w.>])(?<!void )(?:malloc|calloc|realloc|free|strdup|strndup|posix_memalign|aligned_alloc)\s*\(", {"base"}),
    ("the process's end", r"(?<![\w.>])(?:exit|_exit|abort|quick_exit)\s*\(", {"base", "comm"}),
    ("standard output", r"(?<![\w.>])(?:printf|puts|putchar|perror)\s*\(|\bf(?:printf|puts|write)\s*\([^;]*\bstd(?:out|err)\b",
     {"base", "jobs"}),
]
# A third library that is handed a communicator needs MPI's types, and nothing more.
COMMUNICATOR = {"MPI_Comm", "MPI_INFO_NULL", "MPI_COMM_NULL", "<mpi.h>"}


def calls():
    for path in sources():
        module = module_of(path)
        for what, pattern, allowed in RULES:
            if module in allowed:
                continue
            for line, match in matches(path, pattern, keep_strings=False):
                handed = what == "MPI" and module in ("linalg", "store") and match.group(0) in COMMUNICATOR
                # What a library allocated goes back by the library's own rule; the line says whose it is.
                foreign = match.group(0).startswith("free") and "own memory" in path.read_text().split("\n")[line - 1]
                if not handed and not foreign:
                    yield f"{name_of(path)}:{line}: {match.group(0).strip()}: {what} belongs to {', '.join(sorted(allowed))}"


# ---- sizes and prototypes ------------------------------------------------------------------------

def functions(path):
    """(name, first line, lines) of every function body, by braces at depth 0."""
    depth, start, name = 0, 0, None
    head = ""
    for number, line in enumerate(code_of(path).split("\n"), 1):
        if depth == 0:
            head = line if re.match(r"[A-Za-z]", line) else head + " " + line.strip()
            if re.match(r"[A-Za-z]", line):
                start = number
            found = re.match(r"[\w\s*]*?\b(\w+)\s*\(", head)
            name = found.group(1) if found and "=" not in head else None
        opened = depth
        depth += line.count("{") - line.count("}")
        if depth == 0 and (opened > 0 or "{" in line):
            if name:
                yield name, start, number - start + 1
            name, head = None, ""


def sizes():
    lengths = []
    for path in sources() + files("tests/**/*.c", "tests/**/*.h"):
        lines = path.read_text().count("\n")
        if lines > 1000:
            yield f"{name_of(path)}:1: {lines} lines (at most 1000)"
        elif lines > 600:
            print(f"note: {name_of(path)} has {lines} lines (aim: 600)")
        for name, first, length in functions(path):
            lengths.append(length)
            if length > 120:
                yield f"{name_of(path)}:{first}: {name} has {length} lines (at most 120)"
            elif length > 60:
                print(f"note: {name_of(path)}:{first}: {name} has {length} lines (aim: 60)")
    lengths.sort()
    longer = sum(length > 60 for length in lengths)
    print(f"{len(lengths)} functions, median {lengths[len(lengths) // 2]} lines, {longer} above 60")
    if longer > 0.05 * len(lengths):
        yield f"src:1: {longer} of {len(lengths)} functions are above 60 lines (at most one in twenty)"


def columns():
    for path in sources() + files("tests/**/*.c", "tests/**/*.h", "tests/**/*.inc"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > 100:
                yield f"{name_of(path)}:{number}: {len(line)} columns (at most 100)"


def prototypes():
    for path in files("include/darkfield/*.h"):
        text = path.read_text()
        for match in re.finditer(r"^[A-Za-z][\w\s*]*?\b(df_\w+)\(((?:[^()]|\([^()]*\))*)\)[^;{]*;(.*)", text, re.M):
            if match.group(0).startswith(("typedef", "static")):
                continue
            line = text.count("\n", 0, match.start()) + 1
            before = text[:match.start()].split("\n\n")[-1]  # its block, up to the last blank line
            if "*/" not in before and "//" not in before and "/*" not in match.group(3) and "//" not in match.group(3):
                yield f"{name_of(path)}:{line}: {match.group(1)} has no comment"
            count = len(re.sub(r"\([^()]*\)", "", match.group(2)).split(","))
            if count > 8:
                yield f"{name_of(path)}:{line}: {match.group(1)} takes {count} parameters (at most 8)"
            elif count > 6:
                print(f"note: {name_of(path)}:{line}: {match.group(1)} takes {count} parameters (aim: 6)")


def headers():
    compiler = os.environ.get("CC", "cc")
    mpi = subprocess.run(["pkg-config", "--cflags", "ompi-c"], capture_output=True, text=True)
    flags = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
             f"-I{ROOT}/include"] + mpi.stdout.split()
    for path in files("include/darkfield/*.h"):
        program = f'#include "darkfield/{path.name}"\n#include "darkfield/{path.name}"\n'
        done = subprocess.run([compiler, *flags, "-x", "c", "-"], input=program, capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{name_of(path)}:1: does not compile alone:\n{done.stderr}"


# ---- the tree ------------------------------------------------------------------------------------

def tracked():
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    names = done.stdout.split("\0") if done.returncode == 0 else []
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# Spelled in two halves, so that this file does not find itself.
FOREIGN = re.compile("|".join(["(?<![\\w.])/wo" + "rk/", "/ho" + "me/\\w", "(?<![\\w.])/ro" + "ot/", "\\.libr" + "ary/"]))


def paths():
    for path in tracked():
        if path.suffix in {".h5", ".safetensors", ".png", ".npz"} or path.stat().st_size > 2_000_000:
            continue
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").split("\n"), 1):
            found = FOREIGN.search(line)
            if found:
                yield f"{name_of(path)}:{number}: names a machine's own path: {found.group(0)}"


def scripts():
    for path in tracked():
        first = path.read_bytes()[:64].split(b"\n")[0]
        if path.suffix == ".py":
            try:
                ast.parse(path.read_text())
            except SyntaxError as error:
                yield f"{name_of(path)}:{error.lineno}: {error.msg}"
        elif path.suffix in {".sh", ".sbatch"} or (first.startswith(b"#!") and b"sh" in first):
            done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
            if done.returncode != 0:
                yield f"{name_of(path)}:1: {done.stderr.strip()}"
            if path.suffix == ".sh" and first.startswith(b"#!") and not os.access(path, os.X_OK):
                yield f"{name_of(path)}:1: is not executable"


# ---- the program ---------------------------------------------------------------------------------

def darkfield(*arguments):
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([os.environ["DARKFIELD"], *arguments], capture_output=True, text=True, cwd=ROOT,
                          stdin=subprocess.DEVNULL, env=environment, timeout=120)


def options():
    """(file, line, key, entry) of every row of an option table."""
    for path in files("jobs/*.c"):
        text = path.read_text()
        for match in re.finditer(r'\{\s*\.key = "([^"]+)"(.*?)\}\s*,?\s*\n', text, re.S):
            yield path, text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)


def help():
    usage = darkfield("--help")
    stages = re.findall(r"^  (\w+) ", usage.stdout.split("Stages, in order:")[-1], re.M)
    if usage.returncode != 0 or not stages:
        yield f"jobs/darkfield.c:1: darkfield --help returned {usage.returncode} and named {len(stages)} stages"
    pages = {stage: darkfield("help", stage).stdout for stage in stages}
    readme = (ROOT / "README.md").read_text()
    for stage in stages:
        if f"`{stage}`" not in readme:
            yield f"README.md:1: the stage {stage} is not named"
    for path, line, key, entry in options():
        section, _, last = key.partition(".")
        page = pages.get(section) or next(iter(pages.values()), "")
        if ".help" not in entry:
            yield f"{name_of(path)}:{line}: the option {key} has no help"
        elif (last or key).split(".")[-1] not in page:
            yield f"{name_of(path)}:{line}: the option {key} does not show in darkfield help {section}"


def jobs():
    for path in files("jobs/**/*.yaml"):
        done = darkfield("run", name_of(path), "--dry-run")
        if done.returncode != 0:
            yield f"{name_of(path)}:1: --dry-run returned {done.returncode}: {done.stderr.strip()}"


def presets():
    where, job = "jobs/train_presets.c:1", "jobs/quickstart/pocket.yaml"

    def resolve(*sets):
        done = darkfield("train", job, "--print-config", *(word for text in sets for word in ("--set", text)))
        return done, dict(re.findall(r"^  (\w+): (\S+)$", done.stdout, re.M))

    names = re.findall(r"^    ([\w-]+)\n        ", darkfield("help", "train").stdout.partition("Presets")[2], re.M)
    plain = resolve()[1]
    if not names:
        yield f"{where}: darkfield help train lists no presets"
    for name in names[:1]:
        done = resolve(f"train.preset={name}x")[0]
        if done.returncode != 2 or name not in done.stderr:
            yield f"{where}: preset {name}x returned {done.returncode} and did not name {name}: {done.stderr.strip()}"
    for name in names:
        done, values = resolve(f"train.preset={name}")
        changed = sorted(key for key in values if values[key] != plain.get(key) and key != "preset")
        if done.returncode != 0 or not changed:
            yield f"{where}: preset {name} returned {done.returncode} and changed {changed}: {done.stderr.strip()}"
        done, values = resolve(f"train.preset={name}", "train.lr=0.125")
        if values.get("lr") != "0.125":
            yield f"{where}: preset {name} overrides an explicit train.lr"


CHECKS = {check.__name__: check for check in
          (floors, calls, sizes, columns, prototypes, headers, paths, scripts, help, jobs, presets)}


def main(names):
    if not names:
        names = [name for name in CHECKS if name not in ("help", "jobs", "presets") or "DARKFIELD" in os.environ]
    if any(name not in CHECKS for name in names):
        sys.exit(__doc__)
    findings = [finding for name in names for finding in CHECKS[name]()]
    print("\n".join(findings))
    sys.exit(1 if findings else 0)


main(sys.argv[1:])
