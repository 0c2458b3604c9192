"""Home: the guided tour, "Bring 12 examples", four cards in workflow order, recent activity.

Two ways in: `tour_card`, and `examples_card` with `examples_form`. The rest: `overview`.
"""
