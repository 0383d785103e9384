"""Machine learning as a service: hears of new data, trains, judges, publishes."""
