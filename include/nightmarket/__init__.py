"""The machine learning of an online shop, one room a concern. See docs/ for the map."""
