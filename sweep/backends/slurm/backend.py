"""The backends of kind `slurm`: trials as array tasks, or on a Ray cluster inside one job."""

from collections.abc import Sequence
from typing import ClassVar

from mixsweep.cluster.places import Place
from mixsweep.cluster.slurm import client as slurm
from mixsweep.cluster.slurm.client import JobRequest
from mixsweep.core.store.store import SweepStore
from mixsweep.sweep.backends.base import Backend, RunOptions, SubmissionPreview, SweepRun
from mixsweep.sweep.backends.slurm.driver import ArrayDriver
from mixsweep.sweep.backends.slurm.job_request import SlurmBackendError, job_module, request_for
from mixsweep.sweep.backends.slurm.packing import Packing, choose_packing
from mixsweep.sweep.backends.slurm.submissions import next_submission_id, submission_folder
from mixsweep.sweep.planning.forecast import RemainingWork
from mixsweep.sweep.planning.plan import Plan
from mixsweep.sweep.planning.schema import SweepSpec


class SlurmArrayBackend(Backend):
    """Trials as array tasks. They need no driver: tasks stop and requeue by what the store says."""

    extras: ClassVar[tuple[str, ...]] = ("slurm",)
    detaches: ClassVar[bool] = True
    ends_with_command: ClassVar[bool] = False

    def __init__(self, place: Place):
        super().__init__(place)
        assert place.slurm is not None
        self._slurm = place.slurm

    def check(self, plan: Plan, options: RunOptions) -> None:
        super().check(plan, options)
        request_for(plan.spec.name, self._slurm, plan.spec.resources)
        folder = str((options.store_root / plan.spec.name).absolute())
        if found := next((sign for sign in "%\\" if sign in folder), ""):
            raise SlurmBackendError(
                f"{folder}: SLURM and submitit read {found} in a path as the start of a pattern; "
                "choose a name or a --store without it"
            )

    def run(self, sweep_run: SweepRun) -> int:
        driver = ArrayDriver(sweep_run, self.place)
        for submission in driver.submit_unassigned():
            sweep_run.callbacks.say(f"Submitted {len(submission.tasks)} tasks as job {submission.job_id}.")
        if not sweep_run.detach:
            driver.follow()
        return 0

    def submission(
        self, spec: SweepSpec, work: Sequence[RemainingWork], store: SweepStore
    ) -> SubmissionPreview:
        """What would be submitted; of the cluster only the number of its CPUs and GPUs is queried, where it answers."""
        if not work:
            return SubmissionPreview()
        place = self._slurm
        request = request_for(spec.name, place, spec.resources)
        packing = self._pack(request, work, store)
        tasks = -(-len(work) // packing.trials_per_task)
        sizes = [min(place.array_limit, tasks - first) for first in range(0, tasks, place.array_limit)]
        ids = [next_submission_id(store, number) for number in range(len(sizes))]
        scripts = [
            slurm.batch_script(
                place,
                request,
                job_module(place, store, submission_id),
                submission_folder(store, submission_id),
                tasks=size,
            )
            for submission_id, size in zip(ids, sizes, strict=True)
        ]
        return SubmissionPreview(tuple(scripts), packing.reason)

    def _pack(self, request: JobRequest, work: Sequence[RemainingWork], store: SweepStore) -> Packing:
        return choose_packing(self._slurm, request, work, store.path.parent)


class RayInSlurmJobBackend(SlurmArrayBackend):
    """All trials on a Ray cluster over the nodes of one job."""

    def _pack(self, request: JobRequest, work: Sequence[RemainingWork], store: SweepStore) -> Packing:
        return Packing(len(work))
