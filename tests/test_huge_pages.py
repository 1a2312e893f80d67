"""The command's second start with huge pages: when, and that nothing but the pages changes."""

import os
import subprocess
import sys

import pytest

from grouped_conv_jax.benchmarks import memory_allocator
from grouped_conv_jax.commands import _huge_pages, main

HUGE = "glibc.malloc.hugetlb=1"
# Says what reaches the command; run as `python -c`, in which the command's own arguments are last.
PROGRAM = """
import os, sys
from grouped_conv_jax.benchmarks import memory_allocator
from grouped_conv_jax import commands
from grouped_conv_jax.commands import bench
memory_allocator.libc = lambda: "glibc 2.36"
memory_allocator.page_setting = lambda: "madvise"
def run(arguments):
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.stdin.read(), flush=True)
    if arguments.batch < 64:
        os.kill(os.getpid(), arguments.batch)
    return 7
bench.run = run
sys.exit(commands.main())
"""
WITHOUT_JAX = """
import os, sys
from grouped_conv_jax.benchmarks import memory_allocator
from grouped_conv_jax import commands
memory_allocator.tunables_for_huge_pages = lambda *_: "glibc.malloc.hugetlb=1"
def execve(*_):
    sys.exit("jax" in sys.modules)
os.execve = execve
commands.main()
"""


@pytest.mark.parametrize(
    ("platform", "libc", "setting", "environment", "value"),
    [
        ("linux", "glibc 2.36", "madvise", {}, HUGE),
        ("linux", "glibc 2.35", "madvise", {"LD_PRELOAD": ""}, HUGE),
        ("linux", "glibc 3.0", "madvise", {"LD_PRELOAD": "/lib/libSegFault.so"}, HUGE),
        (
            "linux",
            "glibc 2.36",
            "madvise",
            {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"},
            f"glibc.malloc.arena_max=1:{HUGE}",
        ),
        ("linux", "glibc 2.34", "madvise", {}, None),
        ("linux", "", "madvise", {}, None),
        ("darwin", "", "madvise", {}, None),
        ("win32", "glibc 2.36", "madvise", {}, None),
        ("linux", "glibc 2.36", "always", {}, None),
        ("linux", "glibc 2.36", "never", {}, None),
        ("linux", "glibc 2.36", "", {}, None),
        ("linux", "glibc 2.36", "madvise", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),
        ("linux", "glibc 2.36", "madvise", {"GLIBC_TUNABLES": f"a.b=1:{HUGE}"}, None),
        ("linux", "glibc 2.36", "madvise", {"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"}, None),
        ("linux", "glibc 2.36", "madvise", {"LD_PRELOAD": "a.so /x/libjemalloc.so.2"}, None),
    ],
)
def test_tunable_is_added_where_it_has_an_effect(platform, libc, setting, environment, value):
    assert memory_allocator.tunables_for_huge_pages(platform, libc, setting, environment) == value


@pytest.mark.parametrize(
    ("setting", "environment", "allocator", "pages"),
    [
        ("madvise", {}, "glibc 2.36", "small"),
        ("madvise", {"GLIBC_TUNABLES": HUGE}, "glibc 2.36", "huge"),
        ("madvise", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc 2.36", "small"),
        ("never", {"GLIBC_TUNABLES": HUGE}, "glibc 2.36", "small"),
        ("always", {}, "glibc 2.36", "huge"),
        ("madvise", {"LD_PRELOAD": "/x/libjemalloc.so.2"}, "libjemalloc.so.2", None),
    ],
)
def test_allocator_and_pages_are_described(setting, environment, allocator, pages):
    found = memory_allocator.describe("glibc 2.36", setting, environment)
    assert found == {"allocator": allocator, "pages": pages}


@pytest.mark.parametrize(
    ("value", "rest"), [(HUGE, None), (f"a.b=1:{HUGE}", "a.b=1"), ("a.b=1", "a.b=1")]
)
def test_the_tunable_alone_is_taken_away_again(value, rest):
    environment = memory_allocator.without_huge_pages({"HOME": "/", "GLIBC_TUNABLES": value})
    assert environment == {"HOME": "/"} | ({"GLIBC_TUNABLES": rest} if rest else {})


# A shell's background jobs ignore Ctrl-C, and so does what they start.
HEAR_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def start(program, *words, tunables=None):
    environment = memory_allocator.without_huge_pages(os.environ)
    environment.pop("LD_PRELOAD", None)
    process = subprocess.Popen(
        [sys.executable, "-c", HEAR_CTRL_C + program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | ({"GLIBC_TUNABLES": tunables} if tunables else {}),
    )
    output, errors = process.communicate("given", timeout=120)
    return process, output.split(), errors


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the second start is for Linux")


@needs_linux
def test_variable_arrives_in_the_same_process_with_its_input_and_exit_status():
    process, output, errors = start(PROGRAM, "bench", "--batch", "64")
    assert output == [str(process.pid), HUGE, "given"]
    assert errors == f"restarting with GLIBC_TUNABLES={HUGE} (--no-huge-pages prevents this)\n"
    assert process.returncode == 7


@needs_linux
@pytest.mark.parametrize(
    ("options", "tunables"),
    [(["--no-huge-pages"], None), ([], "glibc.malloc.hugetlb=0")],
)
def test_command_goes_on_as_it_is_where_asked_to(options, tunables):
    process, output, errors = start(PROGRAM, "bench", "--batch", "64", *options, tunables=tunables)
    assert output == [str(process.pid), str(tunables), "given"]
    assert errors == ""
    assert process.returncode == 7


@needs_linux
@pytest.mark.parametrize(("signal", "status"), [(15, -15), (2, 130)])
def test_signals_end_the_second_start_as_they_end_the_command(signal, status):
    process, output, errors = start(PROGRAM, "bench", "--batch", str(signal))
    assert output[1] == HUGE
    assert process.returncode == status
    assert "Traceback" not in errors


@needs_linux
def test_second_start_comes_before_jax_is_imported():
    process, _, errors = start(WITHOUT_JAX, "bench", "--from-json", "none")
    assert process.returncode == 0, errors


def test_given_arguments_start_nothing(monkeypatch, capsys):
    monkeypatch.setattr(memory_allocator, "tunables_for_huge_pages", lambda *_: HUGE)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    assert main(["bench", "--from-json", "none"]) == 2
    assert "restarting" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--version"], ["bench", "--help"], ["bench"]])
def test_arguments_that_are_not_the_process_own_or_run_nothing_start_nothing(monkeypatch, words):
    monkeypatch.setattr(memory_allocator, "tunables_for_huge_pages", lambda *_: HUGE)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    # Those of pytest stay in sys.orig_argv, but for the help.
    monkeypatch.setattr(sys, "argv", ["program", *words])
    if words != ["bench"]:
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "program", *words])
    _huge_pages.restart(("train", "predict", "bench"))
