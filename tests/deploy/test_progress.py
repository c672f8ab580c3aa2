import io

from moretta.deploy.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_each_tenth() -> None:
    log = io.StringIO()
    with progress("Rendering", 200, stream=log) as step:
        for _ in range(200):
            step()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("Rendering: 20/200") and lines[-1].startswith("Rendering: 200/200")


def test_few_steps_get_a_line_each() -> None:
    log = io.StringIO()
    with progress("Rendering", 3, stream=log) as step:
        for _ in range(3):
            step()
    assert len(log.getvalue().splitlines()) == 3


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with progress("Rendering", 3, stream=terminal) as step:
        step()
    assert "\x1b[" in terminal.getvalue() or "Rendering" in terminal.getvalue()
