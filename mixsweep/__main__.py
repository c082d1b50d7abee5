from mixsweep.sweep.cli.app import main

main()
