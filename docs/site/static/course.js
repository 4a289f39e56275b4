// What moves on these pages: sliders over frames, the clinic's score, folded text that a link leads into. And an empty
// heading of a table is none to a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("script.frames").forEach(explorer)
  document.querySelectorAll(".quiz").forEach((quiz) => quiz.addEventListener("toggle", answered, true))
  document.querySelectorAll("th").forEach((head) => head.textContent.trim() || head.setAttribute("role", "cell"))
  addEventListener("hashchange", unfold)
  unfold()
})

// What scrolls must be within reach of the keyboard.
addEventListener("load", () => window.MathJax?.startup.promise.then(() => {
  for (const formula of document.querySelectorAll("div.math")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0
  }
}))

// A sheet of frames, each `width` x `height` pixels, series after series, becomes one picture with a slider.
function explorer(script) {
  const { series, width, height, slider, menu } = JSON.parse(script.textContent)
  const sheet = script.closest(".cell_output").querySelector("img")
  const box = document.createElement("div")
  box.className = "explorer"
  box.innerHTML = `<label ${series.length > 1 ? "" : "hidden"}><span></span> <select></select></label>
    <label><span></span> <input type="range" min="0" value="0"></label><canvas role="img"></canvas><output></output>`
  const [choice, range, canvas, line] = ["select", "input", "canvas", "output"].map((name) => box.querySelector(name))
  box.querySelectorAll("span").forEach((span, i) => (span.textContent = [menu, slider][i]))
  choice.append(...series.map(([name]) => new Option(name)))
  range.max = Math.min(...series.map(([, texts]) => texts.length)) - 1
  Object.assign(canvas, { width, height })
  function draw() {
    const text = series[choice.selectedIndex][1][range.value]
    const i = series.slice(0, choice.selectedIndex).reduce((sum, [, texts]) => sum + texts.length, Number(range.value))
    const across = Math.floor(sheet.naturalWidth / width)
    const [x, y] = [(i % across) * width, Math.floor(i / across) * height]
    canvas.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height)
    line.textContent = text
    canvas.setAttribute("aria-label", text)
    range.setAttribute("aria-valuetext", text)
  }
  box.addEventListener("input", draw)
  sheet.decode().then(() => {
    draw()
    const link = sheet.closest("a") // to the sheet alone
    ;(link ?? sheet).replaceWith(box)
  })
}

// The first choice that is opened counts.
function answered({ currentTarget: quiz }) {
  if (!quiz.dataset.first) {
    quiz.dataset.first = quiz.querySelector("details[open]").hasAttribute("data-right") ? "right" : "wrong"
    const done = [...document.querySelectorAll(".quiz[data-first]")]
    const right = done.filter((each) => each.dataset.first === "right").length
    const line = document.createElement("p")
    line.setAttribute("role", "status")
    quiz.append(line)
    line.textContent = `Right at the first choice: ${right} of ${done.length}.`
  }
}

function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)))
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true
  if (target?.closest("details")) target.scrollIntoView()
}
