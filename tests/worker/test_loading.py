"""Loading: how many threads a model gets."""

from pathlib import Path

from phi3kit.core.machine import Threads, choose_threads
from phi3kit.worker.loading import threads_for


def model_of(folder: Path, size_bytes: int) -> Path:
    """A folder with a sparse file of that size."""
    inside = folder / "model"
    inside.mkdir()
    with (inside / "model.safetensors").open("wb") as file:
        file.truncate(size_bytes)
    return folder


class TestThreadsFor:
    def test_a_small_model_is_computed_by_one_thread(self, tmp_path: Path) -> None:
        threads = threads_for(model_of(tmp_path, 10_500_000), None)
        assert threads.count == 1
        if choose_threads(None).count > 1:
            assert threads.reason == "a small model, 10 MB: more threads would wait for each other"

    def test_a_big_model_is_computed_by_all_cpus(self, tmp_path: Path) -> None:
        assert threads_for(model_of(tmp_path, 2_700_000_000), None) == choose_threads(None)

    def test_the_setting_wins(self, tmp_path: Path) -> None:
        assert threads_for(model_of(tmp_path, 10_500_000), 2) == Threads(2, "PHI3KIT_THREADS")
