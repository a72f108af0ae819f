"""A table of figures, and of what they should be."""


def table(rows, goals, width=56):
    """Print figures beside their goals; return how many goals are missed.

    :param rows: name, figure and unit of each.
    :param goals: by the name, a sign (`>=`, `>`, `<=` or `<`) and a number.
    """
    missed = 0
    print(f"\n{'what':<{width}}{'figure':>12}  goal")
    for what, figure, unit in rows:
        sign, goal = goals.get(what, ("", None))
        held = (
            goal is None
            or {
                ">=": figure >= goal,
                ">": figure > goal,
                "<=": figure <= goal,
                "<": figure < goal,
            }[sign]
        )
        missed += not held
        wanted = "" if goal is None else f"  {sign} {goal}{'' if held else '  MISSED'}"
        print(f"{what:<{width}}{figure:>12,.2f}  {unit}{wanted}")
    return missed


def side_by_side(found, *, warm, count, rounds=4, width=44):
    """Have several measured in turns, so that all meet what the machine does, and print it.

    :param found: what is measured, by name: each has `round`, `forget` and `rows`.
    :param warm: size of a first round, which does not count.
    :param count: size of each round.
    """
    for one in found.values():
        one.round(warm)
        one.forget()
    for _ in range(rounds):
        for one in found.values():
            one.round(count)
    print(f"{'what':<{width}}" + "".join(f"{name:>12}" for name in found))
    for row in zip(*(one.rows() for one in found.values()), strict=True):
        figures = "".join(f"{figure:>12.2f}" for _what, figure in row)
        print(f"{row[0][0]:<{width}}{figures}")
