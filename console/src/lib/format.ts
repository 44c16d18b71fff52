// Times, durations, sizes and sums in words.

const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
export const ownZone = own;

const formats = new Map<string, Intl.DateTimeFormat>();

function format(zone: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = zone + JSON.stringify(options);
  let found = formats.get(key);
  if (!found) {
    try {
      found = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
    } catch {
      // A zone that this browser does not know.
      found = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hourCycle: "h23", ...options });
    }
    formats.set(key, found);
  }
  return found;
}

const CLOCK = { hour: "2-digit", minute: "2-digit" } as const;

export const clock = (at: string | Date, zone = own) => format(zone, CLOCK).format(new Date(at));
export const clockWithSeconds = (at: string | Date, zone = own) => format(zone, { ...CLOCK, second: "2-digit" }).format(new Date(at));
export const day = (at: string | Date, zone = own) =>
  format(zone, { weekday: "short", day: "numeric", month: "short" }).format(new Date(at));
export const dayKey = (at: string | Date, zone = own) =>
  format(zone, { year: "numeric", month: "2-digit", day: "2-digit" }).format(new Date(at)).split("/").reverse().join("-");
export const full = (at: string | Date, zone = own) =>
  format(zone, { weekday: "short", day: "numeric", month: "short", year: "numeric", ...CLOCK, second: "2-digit", timeZoneName: "short" }).format(
    new Date(at),
  );

/** The day where it is not today, and the time. */
export function moment(at: string | Date, zone = own): string {
  const isToday = dayKey(at, zone) === dayKey(new Date(), zone);
  return isToday ? clock(at, zone) : `${day(at, zone)} ${clock(at, zone)}`;
}

/** How far away a time is: `in 12 min`, `3 h ago`. */
export function away(at: string | Date, now: number): string {
  const seconds = (new Date(at).getTime() - now) / 1000;
  const size = Math.abs(seconds);
  if (size < 5) return "now";
  const text = span(size);
  return seconds > 0 ? `in ${text}` : `${text} ago`;
}

/** A span of seconds in one unit. */
export function span(seconds: number): string {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A duration as it was measured: `420 ms`, `4.2 s`, `3 min 12 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  const units = ["KB", "MB", "GB", "TB"];
  let size = count / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

export const count = (value: number) => value.toLocaleString("en-US");

/** Dollars; small sums keep their digits. */
export function dollars(value: number): string {
  if (value === 0) return "$0";
  return `$${value.toFixed(value < 0.01 ? 5 : value < 1 ? 3 : 2)}`;
}

export const ofMicroCents = (value: number) => dollars(value / 100_000_000);

/** `1 run`, `2 runs`. */
export const plural = (value: number, one: string, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** A name of the API in words. */
export const words = (name: string) => name.replace(/_error$/, "").replaceAll("_", " ");

export const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);
