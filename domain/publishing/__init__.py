"""What publishing is: content and its limits, times, orders, and effects that happen once or are accounted for."""
