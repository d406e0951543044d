"""How modules are trained, as the plan's `[train]` table says it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Train(BaseModel):
    """Gradient descent (SGD with Nesterov momentum, or AdamW) and a one-cycle learning rate.

    Source of the schedule: L. N. Smith and N. Topin, "Super-convergence" (2019).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Annotated[float, Field(ge=0, le=1000)] = 0
    """Passes over the training rows for the reference; 0 takes `build_model()` as trained."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 256
    """Rows per step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Peak of the one-cycle schedule."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`adamw` suits transformers; it takes no momentum."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the target spread over all classes."""
    device: Literal["cpu", "cuda"] = "cpu"
