import harness

harness.main()
