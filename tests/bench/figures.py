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
