// Returns, as JSON, elements whose text has less contrast with what lies behind it than WCAG's AA asks for.
(() => {
  const parse = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((each) => (each / 255 <= 0.03928 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = new Map();
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(node);
    if (!hasText || !node.getBoundingClientRect().width || style.visibility === "hidden") continue;
    const ink = parse(node.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [more, less] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    const ratio = (more + 0.05) / (less + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const name = `${node.tagName.toLowerCase()}.${node.getAttribute("class") || ""}`;
    if (ratio < (isLarge ? 3 : 4.5)) found.set(name, ratio.toFixed(2));
  }
  return JSON.stringify([...found].slice(0, 12));
})();
