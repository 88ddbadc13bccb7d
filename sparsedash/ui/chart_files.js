// The chart before these buttons as a file: its drawing under a title, on the colour of the page, with the page's font
// inside, so that it looks the same wherever it is opened. Put on the page by browser_scripts.py; the content security
// policy names this text by its hash.
(() => {
  const SCALE = 3;  // pixels of a PNG for each one on the page, for print
  const PAD = 16;
  const FAMILY = "Source Sans";
  const SVG = "http://www.w3.org/2000/svg";
  const here = document.currentScript.closest(".sd-take");

  const chart = () => [...document.querySelectorAll(".js-plotly-plot")]
    .filter((plot) => plot.compareDocumentPosition(here) & Node.DOCUMENT_POSITION_FOLLOWING).pop();

  const node = (name, attributes, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };

  const asData = (blob) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

  // Streamlit's style sheet names the font's file.
  const fontRule = async () => {
    for (const sheet of document.styleSheets) {
      const isFont = (rule) => rule instanceof CSSFontFaceRule
        && rule.style.fontFamily.includes(FAMILY) && rule.style.fontStyle !== "italic";
      const rule = [...sheet.cssRules].find(isFont);
      if (!rule) continue;
      const [, path] = rule.style.src.match(/url\("?([^")]+)/);
      const file = await fetch(new URL(path, sheet.href ?? document.baseURI));
      const data = await asData(await file.blob());
      return `@font-face { font-family: "${FAMILY}"; font-weight: 100 900; src: url("${data}"); }`;
    }
    return "";
  };

  const wrapped = (text, font, width) => {
    const ruler = document.createElement("canvas").getContext("2d");
    ruler.font = font;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = `${lines.at(-1)} ${word}`.trim();
      if (lines.at(-1) && ruler.measureText(longer).width > width) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  };

  const drawing = async (plot) => {
    const layers = [...plot.querySelectorAll(".main-svg")];
    const width = Number(layers[0].getAttribute("width"));
    const height = Number(layers[0].getAttribute("height"));
    const { font, title, hoverlabel } = plot.layout;
    const picture = node("svg", { xmlns: SVG, width: width + 2 * PAD });
    const ground = node("rect", { width: "100%", height: "100%", fill: hoverlabel.bgcolor });
    picture.append(node("style", {}, await fontRule()), ground);
    let y = PAD;
    const write = (text, size, weight, fill) => {
      for (const line of wrapped(text, `${weight} ${size}px "${FAMILY}"`, width)) {
        y += 1.3 * size;
        const style = `font: ${weight} ${size}px "${FAMILY}", sans-serif`;
        picture.append(node("text", { x: PAD, y, fill, style }, line));
      }
    };
    write(here.dataset.title, 19, 600, font.color);
    for (const line of here.dataset.about.split("\n")) write(line, 14, 400, title.font.color);
    y += PAD;
    for (const layer of layers) {
      const copy = layer.cloneNode(true);
      copy.querySelectorAll(".draglayer, .hoverlayer, .zoomlayer").forEach((part) => part.remove());
      // Strokes grow with the picture.
      for (const part of copy.querySelectorAll("[style*=vector-effect]")) part.style.vectorEffect = "none";
      copy.setAttribute("x", PAD);
      copy.setAttribute("y", y);
      // Labels at an edge may stand a little over it.
      copy.style.overflow = "visible";
      copy.style.background = "none";
      picture.append(copy);
    }
    picture.setAttribute("height", y + height + PAD);
    return picture;
  };

  const painted = async (text, width, height) => {
    const image = new Image();
    image.src = await asData(new Blob([text], { type: "image/svg+xml" }));
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = SCALE * width;
    canvas.height = SCALE * height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  };

  const save = async (ending) => {
    const plot = chart();
    if (!plot) return;
    const picture = await drawing(plot);
    const text = new XMLSerializer().serializeToString(picture);
    let file = new Blob([text], { type: "image/svg+xml" });
    if (ending === "png") {
      file = await painted(text, Number(picture.getAttribute("width")), Number(picture.getAttribute("height")));
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${here.dataset.name}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };

  for (const button of here.querySelectorAll("button")) {
    button.addEventListener("click", () => save(button.value));
  }
})();
