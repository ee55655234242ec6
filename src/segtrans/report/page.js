// One slider per example moves the line between clean and attacked; pictures can be dragged as well.
for (const figure of document.querySelectorAll(".example")) {
  const label = figure.querySelector(".cut"), range = label.querySelector("input");
  const cut = () => figure.style.setProperty("--cut", range.value + "%");
  const drag = event => {
    const tile = event.target.closest(".pair"), box = tile && tile.getBoundingClientRect();
    if (tile && event.buttons) { range.value = 100 * (event.clientX - box.left) / box.width; cut(); }
  };
  label.hidden = false;
  range.addEventListener("input", cut);
  figure.addEventListener("pointerdown", drag);
  figure.addEventListener("pointermove", drag);
}

// A cell's text, and apart from it the small print below: an interval, or a note.
const read = cell => {
  const copy = cell.cloneNode(true), small = copy.querySelector("small");
  if (small) small.remove();
  for (const line of copy.querySelectorAll("br")) line.replaceWith(" ");
  const tidy = node => node ? node.textContent.trim().replace(/\s+/g, " ") : "";
  return {text: tidy(copy), small: tidy(small), ends: /^(\S+) to (\S+)$/.exec(tidy(small))};
};
const rows = table => [...table.rows].map(row => [...row.cells].map(read));

const csv = table => {
  const all = rows(table), plain = text => text.replace(/−/g, "-").replace(/^–$/, "");
  // What is no number and begins like a formula is text, which spreadsheets mark by an apostrophe.
  const inert = text => /^[=+@-]/.test(text) && !/^[+-]?[\d.,]+$/.test(text) ? "'" + text : text;
  const wide = all[0].map((_, i) => all.some(row => row[i].ends));
  const cells = (row, number) => row.flatMap(({text, small, ends}, i) =>
    wide[i] ? number ? [text, ...(ends ? ends.slice(1) : ["", ""])] : [text, text + " low", text + " high"]
      : [small ? `${text} (${small})` : text]);
  return all.map((row, i) => cells(row, i).map(text => `"${inert(plain(text)).replace(/"/g, '""')}"`).join(",")).join("\n") + "\n";
};

const latex = table => {
  const signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "–": "--",
    "×": "$\\times$", "→": "$\\to$", "…": "\\dots{}"};
  const safe = text => text.replace(/[\\~^−–×→…&%$#_{}]/g, sign => signs[sign] || "\\" + sign)
    .replace(/^[[*]/, "{$&}");  // which would belong to the end of the line before
  const cell = ({text, small, ends}) =>
    safe(text) + (ends ? ` {\\scriptsize [${safe(ends[1])}, ${safe(ends[2])}]}` : small ? ` {\\scriptsize ${safe(small)}}` : "");
  const all = rows(table).map(row => row.map(cell).join(" & ") + " \\\\");
  const columns = [...table.rows[0].cells].map((head, i) => head.matches(i ? ".number, .heat th" : ".number") ? "r" : "l").join("");
  return [`\\begin{tabular}{${columns}}`, "\\toprule", all[0], "\\midrule", ...all.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
};

const button = (text, act) => {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...text);
  made.addEventListener("click", () => act(made));
  return made;
};
const copy = async text => {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], name = table.parentNode.getAttribute("aria-label");
  // What is undefined stays at the end; numbers start with the largest, names with the first.
  heads.forEach((head, column) => head.append(button([...head.childNodes], () => {
    const found = [...body.rows].map(row => ({row, text: read(row.cells[column]).text}));
    const known = found.filter(({text}) => text && text !== "–"), numbers = known.every(({text}) => /^[+−]?\d/.test(text));
    const value = text => parseFloat(text.replace("−", "-").replace(/,/g, ""));
    const now = head.getAttribute("aria-sort"), down = now ? now === "ascending" : numbers;
    known.sort((a, b) => (numbers ? value(a.text) - value(b.text) : a.text.localeCompare(b.text)) * (down ? -1 : 1));
    body.append(...known.map(({row}) => row), ...found.filter(one => !known.includes(one)).map(({row}) => row));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  })));
  const line = document.createElement("p");
  line.className = "copy";
  line.append("copy as ");
  for (const [kind, write] of [["CSV", csv], ["LaTeX", latex]]) {
    const made = button([kind], async () => {
      await copy(write(table));
      made.textContent = "copied";
      setTimeout(() => { made.textContent = kind; }, 1500);
    });
    made.setAttribute("aria-label", `Copy ${name} as ${kind}`);
    line.append(made);
  }
  table.parentNode.after(line);
}
