"""A thread for questions of which only the newest matters: what widgets ask must never block the notebook."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread

Job = Callable[[], None]


class Newest:
    """Runs jobs one after the other and forgets those that a newer one has overtaken.

    failed: told what went wrong, in words.
    """

    def __init__(self, failed: Callable[[str], None], name: str) -> None:
        self._failed = failed
        self._news = Condition()
        self._job: Job | None = None
        self._busy = self._closed = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, job: Job) -> None:
        """Run this next, and nothing that waits."""
        with self._news:
            self._job = job
            self._news.notify_all()

    def settle(self) -> None:
        """Wait until nothing is left to do."""
        with self._news:
            self._news.wait_for(lambda: (self._job is None and not self._busy) or self._closed)

    def close(self) -> None:
        """End the thread."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._job is not None or self._closed)
                if self._closed:
                    return
                job, self._job, self._busy = self._job, None, True
            assert job is not None
            try:
                job()
            except Exception as error:  # shown as words: a traceback in a notebook helps nobody who turns a widget
                self._failed(str(error) or type(error).__name__)
            with self._news:
                self._busy = False
                self._news.notify_all()
