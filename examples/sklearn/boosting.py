"""Boosted trees of scikit-learn on its diabetes data: a model without epochs, thus one record a trial."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import KFold, cross_validate

from mixsweep import Run, field


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of a trial. None is a budget: the trial ends when `train` returns."""

    trees: int = field(100, low=1)
    depth: int = field(3, low=1, doc="levels of a tree")
    rate: float = field(0.1, above=0, doc="weight of each further tree")
    folds: int = field(5, low=2, doc="of the cross-validation, the same in every trial")
    seed: int = 0


class Boosting:
    """Cross-validate a model; the seed draws the part of the patients that each tree sees."""

    Config = Config
    metrics = {
        "rmse": {
            "better": "min",
            "doc": "root mean squared error of the disease's progression, mean over folds",
        },
        "r2": {"better": "max", "doc": "explained share of the variance, mean over folds"},
    }

    def __init__(self, config: Config, run: Run):
        self.config, self.threads, self.is_done = config, run.threads, False

    def train(self) -> Iterator[dict[str, float]]:
        """Yield the one record, unless a checkpoint says that it was made."""
        if self.is_done:
            return
        c = self.config
        model = GradientBoostingRegressor(
            n_estimators=c.trees, max_depth=c.depth, learning_rate=c.rate, subsample=0.5, random_state=c.seed
        )
        found = cross_validate(
            model,
            *load_diabetes(return_X_y=True),
            cv=KFold(c.folds, shuffle=True, random_state=0),
            scoring={"rmse": "neg_root_mean_squared_error", "r2": "r2"},
            n_jobs=self.threads,
        )
        self.is_done = True
        yield {"rmse": -found["test_rmse"].mean(), "r2": found["test_r2"].mean()}

    def state(self) -> Mapping[str, Any]:
        """Whether the record was made; the models are not needed any more."""
        return {"is_done": self.is_done}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: there is nothing left to train."""
        self.is_done = state["is_done"]
