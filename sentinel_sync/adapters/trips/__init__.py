"""Files of trips: the log of the open one, and recorded drives to replay."""
