"""What Ray preloads into its workers, in interpreters of its own as it changes what they import."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    "msgspec",
    "ray",
    "json",
    "logging",
    "raytrail.config",
    "raytrail.sources.event_file",
    "raytrail.sources.serve",
}


def python(program, **environ):
    """Run a program; return what it printed, line by line, and what its log said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), [
        line for line in done.stderr.splitlines() if "not written" in line or "hook" in line
    ]


def test_preloading_imports_nothing_heavy():
    printed, _ = python("import sys, raytrail.sources.preload; print(*sys.modules)")
    assert not HEAVY & set(printed[0].split())
    assert "raytrail.sources.preload" in printed[0].split()


def test_a_module_is_hooked_once_it_is_imported_and_stays_what_it_was(tmp_path):
    (tmp_path / "target.py").write_text("here = 1\n")
    (tmp_path / "ours.py").write_text("import target\ndef lay():\n    print('laid', target.here)\n")
    printed, _ = python(
        f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from raytrail.sources import preload
        preload._MODULES["target"] = "ours"
        sys.meta_path.insert(1, preload._Finder())  # one more that asks all the others
        print("before")
        import inspect, target
        print(inspect.getsource(target).strip(), type(target.__loader__).__name__)
        """
    )
    assert printed == ["before", "laid 1", "laid 1", "here = 1 SourceFileLoader"]


def test_a_module_that_cannot_be_imported_raises_as_ever():
    program = """if True:
        from raytrail.sources import preload
        preload._MODULES["nowhere"] = "ours"
        try:
            import nowhere
        except ModuleNotFoundError as error:
            print(error)
        """
    assert python(program)[0] == ["No module named 'nowhere'"]


def test_hooks_that_fail_are_one_line_and_the_import_goes_on(tmp_path):
    (tmp_path / "target.py").write_text("")
    (tmp_path / "ours.py").write_text("def lay():\n    1 / 0\n")
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from raytrail.sources import preload
        preload._MODULES["target"] = "ours"
        import target
        print(target.__name__)
        """
    printed, logged = python(program)
    assert printed == ["target"]
    assert logged == ["no hooks of ours: ZeroDivisionError('division by zero')"]


CONTROLLER = "ray.serve._private.controller"
HOOKED = """if True:
    from ray.serve._private.application_state import ApplicationState
    from ray.serve._private.deployment_state import DeploymentReplica
    print(*(hasattr(f, "__wrapped__") for f in (ApplicationState._update_status, DeploymentReplica.check_stopped)))
    """


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"), [("raytrail.sources.preload", CONTROLLER), (CONTROLLER, "raytrail.sources.preload")]
)
def test_the_controller_is_hooked_with_the_types_that_are_on_whichever_came_first(first, then):
    program = f"import {first}, {then}\n{HOOKED}"
    assert python(program, RAYTRAIL_SOURCES_TYPES="SERVE_REPLICA") == (["False True"], [])
    assert python(program) == (["False False"], [])


@pytest.mark.slow
def test_what_only_uses_serve_and_data_reads_no_setting():
    program = "import sys, raytrail.sources.preload, ray.serve, ray.data; print('raytrail.config' in sys.modules)"
    assert python(program, RAYTRAIL_SOURCES_TYPES="ALL")[0] == ["False"]


@pytest.mark.slow
def test_an_actors_class_is_hooked_when_a_worker_gets_it():
    program = """if True:
        import sys
        from ray._private.function_manager import FunctionActorManager
        from ray.data._internal.stats import _StatsActor

        found = [dict, _StatsActor.__ray_metadata__.modified_class]
        before = found[1].update_dataset
        FunctionActorManager._load_actor_class_from_gcs = lambda self, *_: found[self]
        import raytrail.sources.preload

        assert FunctionActorManager._load_actor_class_from_gcs(0, "job", "descriptor") is dict
        print("raytrail.config" in sys.modules)
        assert FunctionActorManager._load_actor_class_from_gcs(1, "job", "descriptor") is found[1]
        print(found[1].update_dataset is before)
        """
    assert python(program, RAYTRAIL_SOURCES_TYPES="DATASET_PROGRESS") == (["False", "False"], [])
    assert python(program) == (["False", "True"], [])


@pytest.mark.slow
def test_a_class_loader_of_another_name_turns_data_off_with_one_line():
    program = """if True:
        from ray._private.function_manager import FunctionActorManager
        del FunctionActorManager._load_actor_class_from_gcs
        import raytrail.sources.preload
        print(hasattr(FunctionActorManager._load_actor_class_from_local, "__wrapped__"))
        """
    printed, [warning] = python(program, RAYTRAIL_SOURCES_TYPES="DATASET_PROGRESS")
    assert printed == ["False"]
    assert warning.startswith("DATASET_PROGRESS is not written by process ")
    assert warning.endswith("'FunctionActorManager' has no attribute '_load_actor_class_from_gcs'")
    assert python(program) == (["False"], [])
