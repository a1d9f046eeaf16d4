"""Draw the paper's four figures from runs of experiments.train, and README's picture.

python -m experiments.figures angle      # Fig. 1, the angle between gradient and eigenvector
python -m experiments.figures curves     # Fig. 2, loss, accuracy and sharpness over the epochs
python -m experiments.figures spectrum   # Fig. 3, top eigenvalues and spectral density
python -m experiments.figures alpha      # Fig. 4, test accuracy over alpha

python -m experiments.figures idea       # one step on a loss of two weights, no run

Each writes a picture and its numbers into runs/figures. By default they train on the digits, which
takes minutes on two cores; results/figures/README.md has the commands of the committed pictures,
their times and what to expect. Runs are kept in the same folder: a second call does only what is
missing.
"""

from typing import Annotated

import tyro

from experiments.common.errors import command_line, exit_on_user_error
from experiments.common.files import check_folder
from experiments.common.many import bars_shown
from experiments.figures import alpha, angle, curves, idea, spectrum
from experiments.figures.options import check

Figure = (
    Annotated[angle.Angle, tyro.conf.subcommand("angle")]
    | Annotated[curves.Curves, tyro.conf.subcommand("curves")]
    | Annotated[spectrum.Spectrum, tyro.conf.subcommand("spectrum")]
    | Annotated[alpha.Alpha, tyro.conf.subcommand("alpha")]
    | Annotated[idea.Idea, tyro.conf.subcommand("idea")]
)


def make(options: Figure) -> None:
    """Make one figure.

    Args:
        options: Which, and its options.

    Raises:
        UserError: An option is out of range, or a folder cannot be written.
    """
    if isinstance(options, idea.Idea):
        check_folder(options.out)
        idea.make(options)
        return
    check(options)
    match options:
        case angle.Angle():
            angle.make(options)
        case spectrum.Spectrum():
            spectrum.make(options)
        case curves.Curves():
            curves.make(options)
        case alpha.Alpha():
            alpha.make(options)


def main() -> None:
    """Run the command line."""
    with exit_on_user_error(), bars_shown():
        make(command_line(Figure, "experiments.figures", __doc__))


if __name__ == "__main__":
    main()
