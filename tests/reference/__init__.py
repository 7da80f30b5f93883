"""Plain twins: loops and sets in float64, never imported by the package."""
