"""Home: the guided tour, "Bring 12 examples", four cards in workflow order, recent activity."""
