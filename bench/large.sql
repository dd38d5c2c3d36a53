select repeat('x', 1000) from generate_series(1, 50000);
