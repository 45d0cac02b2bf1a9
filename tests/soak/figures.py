"""What a soak has counted, and how much of each it is to reach."""

from dataclasses import asdict, dataclass, fields


@dataclass
class Figures:
    """One line of figures: counted, never assumed. The names are those of its JSON."""

    commands: int = 0  # that came to their end, or to an operator, amid faults
    lost: int = 0  # of those whose send was acknowledged
    settled_twice: int = 0
    double_replies: int = 0
    worker_kills: int = 0
    postgres_kills: int = 0
    terminations: int = 0  # sessions of workers and senders, ended by the server
    zombies: int = 0  # stopped with claims in hand, and gone on after others had claimed these
    schedules: int = 0
    bad_inputs: int = 0
    violations: int = 0  # of any rule, those above included

    def add(self, other: "Figures") -> None:
        """Add what another has counted."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def as_dict(self) -> dict[str, int]:
        """Return them as JSON has them."""
        return asdict(self)


COLUMNS = {
    "ci": Figures(
        commands=50_000, worker_kills=200, postgres_kills=20, terminations=100, zombies=20, schedules=10_000,
        bad_inputs=2_000,
    ),
    "soak": Figures(
        commands=1_000_000, worker_kills=20_000, postgres_kills=1_000, terminations=10_000, zombies=5_000,
        schedules=1_000_000, bad_inputs=250_000,
    ),
}  # fmt: skip
"""How much is enough: for every change, and for a soak, which ends before when its time is up."""
