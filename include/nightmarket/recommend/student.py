"""A smaller recommender that is taught by the night's: narrower towers, and one small network in the place of trees, network and signals.

Knowledge distillation (Hinton, Vinyals & Dean 2015). The towers learn from every purchase day what was bought and how likely the teacher's towers
found each item; the network learns from the teacher's own lists what then happened and how the teacher ordered them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nightmarket import log as logs
from nightmarket.learn.strategy import Placement, tensorflow
from nightmarket.learn.transfer import apart_in_order
from nightmarket.recommend import second, stages, towers
from nightmarket.recommend.catalogue import Catalogue
from nightmarket.recommend.histories import Histories
from nightmarket.recommend.second import Lists, Second
from nightmarket.recommend.stages import Towers
from nightmarket.shop import Model as Settings

_LOG = logs.logger("recommend")


@dataclass(frozen=True)
class TowersLesson:
    """learn.loop.Task of a student's towers: (1 - share) x its own loss + share x T² x distance from the teacher's softmax at T."""

    own: towers.RetrievalTask
    teacher: Any
    """The trained keras.Model, of the same items and another width."""
    share: float
    temperature: float
    name: str = "student_towers"

    def build(self) -> Any:
        return self.own.build()

    def losses(self, model: Any, batch: dict[str, Any], step: Any) -> Any:
        """(batch,)"""
        tf = tensorflow()
        mine, said = self.own.scored(model, batch, step)
        told = tf.stop_gradient(self.own.scored(self.teacher, batch, step)[1])
        return (1.0 - self.share) * mine + self.share * apart_in_order(tf, said, told, self.temperature)


def teach(
    teacher: Towers, judge: Second, lists: Lists, plan: second.Plan, past: Histories, priced: Catalogue, begin: float, cut: float, settings: Settings,
    work: Path, apart: int, placement: Placement,
) -> tuple[Towers, Second, dict[str, Any]]:
    """(towers, second stage, account) of the student that `settings.student` describes. The same call with the same `work` continues."""
    wanted = settings.student
    assert wanted is not None
    chosen = settings.model_copy(update={"embedding_dim": wanted.embedding_dim})
    shape = stages.shape_of(past, chosen)
    with logs.stage(_LOG, "student_taught", embedding_dim=wanted.embedding_dim) as said:
        task = TowersLesson(stages.task_of(past, priced, shape, chosen), teacher.model, wanted.share, wanted.temperature)
        learner = stages.trainer(task, chosen, placement)
        files, kept_out = stages.first_files(past, begin, cut, shape, chosen, work / "towers")
        valid = towers.examples(kept_out, shape, chosen.batch_size, None) if kept_out else None
        # the smaller it is, the longer it may learn; the shoppers kept out stop it
        plan_of_towers = replace(stages.first_plan(chosen), epochs=settings.epochs)
        history = learner.fit(towers.examples(files, shape, chosen.batch_size, chosen.seed), valid, plan_of_towers, work / "towers") if files else []
        small = replace(plan, hidden=wanted.hidden, members=wanted.members, epochs=settings.epochs)
        made = second.taught(lists, judge, small, work / "second", wanted.share, wanted.temperature, apart, placement)
        said |= {"epochs": len(history), "loss": history[-1]["loss"] if history else None, "weights": learner.model.count_params(), "of": teacher.model.count_params()}
    account = {
        "embedding_dim": wanted.embedding_dim, "towers": history[-1] if history else {}, "second": {k: v for k, v in made.account.items() if k != "thresholds"},
        "weights": {"student": int(learner.model.count_params()) + made.parameters,
                    "teacher": int(teacher.model.count_params()) + judge.parameters},
    }
    return Towers(learner.model, shape, teacher.countries), made, account
