# Each target sets up .venv when needed. Without make (Windows): py tools\course.py lab
PYTHON ?= python3
COURSE = $(PYTHON) tools/course.py

.PHONY: lab test course notebooks badges lab-kit readme bench soak clean
lab:        ## JupyterLab, opened on notebook 00
	$(COURSE) lab
test:       ## ruff, unit tests, every notebook under nbval with the network off
	$(COURSE) test
course:     ## run every notebook here and write HTML pages to build/course
	$(COURSE) course
notebooks:  ## rebuild the committed notebooks from notebooks/src; ONLY=01 for one
	$(COURSE) notebooks $(ONLY)
badges:     ## make badges REPO=owner/name: Colab links and clone address of your fork
	$(COURSE) badges $(REPO)
lab-kit:    ## for instructors, to build/lab-kit.zip; DATA=folder puts your images in
	$(COURSE) lab-kit $(if $(DATA),"$(DATA)")
readme:     ## the README's tables, from figures/ and the notebooks
	$(COURSE) readme
bench:      ## hours of measurements, to figures/
	$(COURSE) bench
soak:       ## hours of kills, damaged files, no network and load; PARTS="kill=15 fuzz=20000" for less
	$(COURSE) soak $(PARTS)
clean:
	rm -rf .venv build
