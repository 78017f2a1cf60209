"""Steps of course generation."""
