// A schedule in words. What no short sentence says well is shown as its expression.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY_NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/** The values of a field that lists them; null for `*`, and for what is no list of numbers, names and ranges. */
function values(field: string, names: string[], offset: number): number[] | null {
  const found: number[] = [];
  const number = (text: string) => {
    const named = names.indexOf(text.toLowerCase());
    return named >= 0 ? named + offset : /^\d+$/.test(text) ? Number(text) : NaN;
  };
  for (const part of field.split(",")) {
    const [from, to] = part.split("-").map(number);
    if (from === undefined || Number.isNaN(from) || (to !== undefined && (Number.isNaN(to) || to < from))) return null;
    for (let value = from; value <= (to ?? from); value++) found.push(value);
  }
  return found;
}

function listed(items: string[]): string {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

function timesOf(minute: string, hour: string): string | null {
  const everyMinutes = /^\*\/(\d+)$/.exec(minute)?.[1];
  const everyHours = /^\*\/(\d+)$/.exec(hour)?.[1];
  const during = /^(\d+)-(\d+)$/.exec(hour);
  const between = during ? `, from ${two(during[1]!)}:00 to ${two(during[2]!)}:59` : "";
  if (minute === "*" && (hour === "*" || during)) return `every minute${between}`;
  // What does not divide the hour or the day begins anew with it, which is no even rhythm.
  if ((everyMinutes && 60 % Number(everyMinutes)) || (everyHours && 24 % Number(everyHours))) return null;
  if (everyMinutes && (hour === "*" || during)) return `every ${everyMinutes} minutes${between}`;
  if (!/^\d+$/.test(minute)) {
    const minutes = values(minute, [], 0);
    return minutes && hour === "*" ? `at ${listed(minutes.map((m) => `:${two(m)}`))} of every hour` : null;
  }
  if (hour === "*") return minute === "0" ? "every hour" : `every hour at :${two(minute)}`;
  if (everyHours) return `every ${everyHours} hours${minute === "0" ? "" : ` at :${two(minute)}`}`;
  if (during) return `every hour at :${two(minute)}, from ${two(during[1]!)}:00 to ${two(during[2]!)}:59`;
  const hours = values(hour, [], 0);
  return hours && hours.length <= 4 ? `at ${listed(hours.map((h) => `${two(h)}:${two(minute)}`))}` : null;
}

const two = (value: number | string) => String(value).padStart(2, "0");

function weekdays(field: string): string | null {
  const days = values(field, DAY_NAMES, 0)?.map((day) => day % 7);
  if (!days) return null;
  const set = [...new Set(days)].sort();
  const text = set.join("");
  if (text === "12345") return "on weekdays";
  if (text === "06") return "on weekends";
  if (text === "0123456") return "";
  return `on ${listed(set.map((day) => `${DAYS[day]}s`))}`;
}

function ordinal(value: number): string {
  const rest = value % 100;
  const ending = rest > 10 && rest < 14 ? "th" : (["th", "st", "nd", "rd"][value % 10] ?? "th");
  return `${value}${ending}`;
}

/** The five fields of `expression` in words, or null. */
export function inWords(expression: string): string | null {
  const fields = expression.trim().split(/\s+/);
  if (fields.length !== 5) return null;
  const [minute, hour, dayOfMonth, month, dayOfWeek] = fields as [string, string, string, string, string];
  const times = timesOf(minute, hour);
  if (times === null) return null;
  let days = "";
  // Where both are given, either of them fires, which no short sentence says.
  if (dayOfMonth !== "*" && dayOfWeek !== "*") return null;
  if (dayOfWeek !== "*") {
    const found = weekdays(dayOfWeek);
    if (found === null) return null;
    days = found;
  } else if (dayOfMonth !== "*") {
    const found = values(dayOfMonth, [], 0);
    if (!found || found.length > 4) return null;
    days = `on the ${listed(found.map(ordinal))} of ${month === "*" ? "each month" : ""}`;
  }
  let months = "";
  if (month !== "*") {
    const found = values(month, MONTHS.map((name) => name.slice(0, 3).toLowerCase()), 1);
    if (!found) return null;
    months = listed(found.map((one) => MONTHS[one - 1] ?? ""));
    months = dayOfMonth === "*" ? `in ${months}` : months;
  }
  const daily = !days && !months && times.startsWith("at ") && !times.includes("of every hour") ? "every day" : "";
  const said = [daily, days, months, times].map((part) => part.trim()).filter(Boolean).join(" ");
  return said.charAt(0).toUpperCase() + said.slice(1);
}

/** A schedule in words, or its expression. */
export const scheduleText = (expression: string) => inWords(expression) ?? expression;
